use super::*;

fn path(name: &str) -> &Path {
    Path::new(name)
}

#[test]
fn both_storages_do_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let storages: [Box<dyn Storage>; 2] =
        [Box::new(RealStorage::new(folder.path().to_owned())), Box::new(SimStorage::new(1))];
    for storage in storages {
        storage.make_folder(path("in")).unwrap();
        storage.make_folder(path("in")).unwrap();
        assert!(storage.open(path("in/a"), Open::Existing).is_err());
        let file = storage.open(path("in/a"), Open::OrCreate).unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        let mut bytes = [9; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0\0hello");
        assert_eq!(file.read_exact_at(&mut bytes, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.set_length(5).unwrap();
        let identity = file.identity().unwrap();
        assert_eq!((file.length().unwrap(), identity.size, identity.regular), (5, 5, true));
        file.sync().unwrap();
        storage.sync_folder(path("in")).unwrap();
        storage.open(path("in/b"), Open::Empty).unwrap();
        let taken = storage.rename_new(path("in/a"), path("in/b")).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        storage.rename(path("in/a"), path("in/b")).unwrap();
        storage.rename_new(path("in/b"), path("in/c")).unwrap();
        assert_eq!(storage.list(path("in")).unwrap(), ["c"]);
        let again = storage.open(path("in/c"), Open::Existing).unwrap().identity().unwrap();
        assert!(again.is_same_file(&identity));
        assert_eq!(again, identity);
        assert!(storage.remove_folder(path("in")).is_err());
        storage.remove(path("in/c")).unwrap();
        storage.remove_folder(path("in")).unwrap();
        assert!(storage.list(path("in")).unwrap().is_empty());
    }
}

#[test]
fn a_kill_keeps_what_was_written_and_a_power_cut_what_was_synced() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..200 {
        let storage = SimStorage::new(seed);
        let file = storage.open(path("a"), Open::OrCreate).unwrap();
        file.write_all_at(&[1; 1000], 0).unwrap();
        file.sync().unwrap();
        storage.sync_folder(path("")).unwrap();
        file.write_all_at(&[2; 3000], 1000).unwrap();
        storage.open(path("b"), Open::OrCreate).unwrap();
        storage.kill();
        assert!(file.write_all_at(b"from the dead", 0).is_err());
        assert_eq!(storage.content(path("a")).unwrap().len(), 4000);
        storage.power_cut();
        let content = storage.content(path("a")).unwrap();
        assert_eq!(content[..1000], [1; 1000], "seed {seed}");
        assert!(content[1000..].iter().all(|byte| [0, 2].contains(byte)));
        if content.len() == 4000 && content[1000..] == [2; 3000] {
            kept += 1;
        } else {
            lost += 1;
        }
    }
    assert!(lost > 30 && kept > 30, "lost {lost}, kept {kept}");
}

#[test]
fn faults_come_as_ordered() {
    let storage = SimStorage::new(7);
    let file = storage.open(path("a"), Open::OrCreate).unwrap();
    storage.set_faults(Faults { room_bytes: Some(100), ..Faults::default() });
    assert_eq!(file.write_at(&[1; 60], 0).unwrap(), 60);
    assert_eq!(file.write_at(&[1; 60], 60).unwrap(), 40);
    assert_eq!(file.write_at(&[1; 60], 100).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.write_at(&[2; 60], 20).unwrap(), 60, "what is there can be written over");
    file.set_length(50).unwrap();
    assert_eq!(file.write_at(&[1; 60], 50).unwrap(), 50);
    storage.set_faults(Faults { fail_call: Some(1), fail_sync: Some(1), ..Faults::default() });
    file.sync().unwrap();
    assert!(file.length().is_err());
    assert!(file.sync().is_err());
    file.sync().unwrap();
    storage.set_faults(Faults { short_writes_percent: 100, ..Faults::default() });
    assert!(file.write_at(&[3; 60], 0).unwrap() < 60);
    file.write_all_at(&[3; 60], 0).unwrap();
    assert_eq!(storage.content(path("a")).unwrap()[..60], [3; 60]);
}

#[test]
fn a_process_that_dies_in_a_call_does_nothing_more_and_a_bad_file_stays_bad() {
    let mut done = [0; 3];
    for seed in 0..200 {
        let storage = SimStorage::new(seed);
        let file = storage.open(path("a"), Open::OrCreate).unwrap();
        storage.set_faults(Faults { die_call: Some(1), ..Faults::default() });
        file.write_all_at(&[1; 10], 0).unwrap();
        assert!(!storage.is_dead());
        let result = file.write_all_at(&[1; 1000], 10);
        assert!(result.is_err() && storage.is_dead() && storage.open(path("b"), Open::OrCreate).is_err());
        let there = storage.content(path("a")).unwrap().len();
        done[usize::from(there > 10) + usize::from(there == 1010)] += 1;
        storage.kill();
        assert!(!storage.is_dead() && storage.names() == [path("a")]);
        assert!(storage.spoil(path("a")) && !storage.spoil(path("b")));
        storage.rename(path("a"), path("b")).unwrap();
        storage.kill();
        let file = storage.open(path("b"), Open::Existing).unwrap();
        assert!(file.read_at(&mut [0], 0).is_err() && file.write_at(&[0], 0).is_err() && file.sync().is_err());
        assert_eq!(file.length().unwrap(), there as u64);
    }
    assert!(done[0] > 50 && done[1] > 50 && done[2] == 0, "{done:?}");
}
