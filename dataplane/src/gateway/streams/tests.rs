use super::super::pipes::pair;
use super::super::testing::Bed;
use super::*;
use crate::ipc::RequestBody;

/// What the senders of these streams were told that they may be ahead.
fn credits(told: &[Command]) -> Vec<(TransferId, u64)> {
    let credit = |command: &Command| match *command {
        Command::Credit { id, bytes } => Some((id, u64::from(bytes))),
        _ => None,
    };
    told.iter().filter_map(credit).collect()
}

#[test]
fn what_senders_may_be_ahead_of_many_readers_stays_within_the_nodes_limit_and_comes_back() {
    let mut bed = Bed::new();
    let (mut given, mut pipes) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let meta = TransferMeta { name: "f".into(), size: None, declared: None, priority: 0, attributes: vec![] };
        bed.says(0, Event::Offered { peer: PeerId(0), id: TransferId(number), meta });
        let (reader, writer) = pair().unwrap();
        bed.ask_with(RequestBody::Listen { name: None, from: None, resume: None }, writer);
        pipes.push(reader);
        given.extend(credits(&bed.told(0)));
    }
    assert_eq!(given.len(), 200);
    assert_eq!((given[0].1, given[199].1), (CREDIT_BYTES.1, CREDIT_BYTES.0));
    let most = SpoolPlan::default().node_bytes + 200 * CREDIT_BYTES.0;
    assert!(given.iter().map(|(_, bytes)| bytes).sum::<u64>() <= most);
    let mut last = 0;
    for number in 0..199 {
        let result = Err(Failure::new(FailCode::Cancelled, "over"));
        let told = bed.says(0, Event::TransferEnded { id: TransferId(number), result, wire_bytes: 0 });
        last = credits(&told)
            .into_iter()
            .filter(|(id, _)| *id == TransferId(199))
            .map(|(_, bytes)| bytes)
            .fold(last, u64::max);
    }
    assert_eq!(last, CREDIT_BYTES.1, "alone it has all");
}
