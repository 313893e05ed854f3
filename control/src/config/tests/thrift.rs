//! `[thrift]`.

use std::time::Duration;

use super::super::*;
use super::GOOD;
use crate::services::ServicesPlan;
use crate::thrift::ThriftPlan;

fn compiled(table: &str) -> Result<Compiled, Refusal> {
    compile_whole(Path::new("/etc/florelay/node.toml"), &format!("{GOOD}\n{table}"), Checks::TextOnly)
}

fn plan(table: &str) -> ThriftPlan {
    compiled(table).unwrap().services.thrift.unwrap()
}

#[test]
fn absent_is_not_served_and_empty_is_what_old_clients_expect() {
    assert_eq!(compiled("").unwrap().services, ServicesPlan::default());
    let peers =
        [("station-a", "to-a"), ("station-c", "to-c")].map(|(peer, link)| (peer.to_owned(), link.to_owned())).into();
    let expected = ThriftPlan { peers, ..ThriftPlan::default() };
    assert_eq!(plan("[thrift]"), expected);
    assert_eq!((expected.listen.to_string().as_str(), expected.test_hooks), ("127.0.0.1:9090", false));
}

#[test]
fn everything_can_be_said_and_reaches_the_control_process() {
    let table = "[thrift]\nlisten = \"127.0.0.2:9091\"\nversion = \"2026-Feb-20\"\npeer = \"station-a\"\ndata-bind = \"127.0.0.3\"\n\
                 test-hooks = true\nconnect-timeout = \"5 s\"\nping = \"1 s\"\n";
    let services = compiled(table).unwrap().services;
    let plan = services.thrift.clone().unwrap();
    assert_eq!(plan.listen, "127.0.0.2:9091".parse().unwrap());
    assert_eq!((plan.version.as_str(), plan.peer.as_deref()), ("2026-Feb-20", Some("station-a")));
    assert_eq!((plan.data_bind, plan.test_hooks), ("127.0.0.3".parse().unwrap(), true));
    assert_eq!((plan.connect_timeout, plan.ping), (Duration::from_secs(5), Duration::from_secs(1)));
    assert_eq!(ServicesPlan::from_json(&services.to_json()), Ok(services));
}

#[test]
fn what_is_wrong_is_refused_at_its_place() {
    for (table, key, words) in [
        ("listen = \"localhost\"", "thrift.listen", "not an address and a port"),
        ("version = \"\"", "thrift.version", "no version"),
        ("peer = \"nobody\"", "thrift.peer", "there is no peer"),
        ("data-bind = \"x\"", "thrift.data-bind", "not an address"),
        ("test-hooks = 1", "thrift.test-hooks", "true or false"),
        ("ping = \"1 ms\"", "thrift.ping", "out of range"),
        ("pings = \"1 s\"", "thrift.pings", "unknown key"),
    ] {
        let Refusal(errors) = compiled(&format!("[thrift]\n{table}")).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].key, key);
        assert!(errors[0].message.contains(words), "{}", errors[0].message);
        assert_eq!(errors[0].line, GOOD.lines().count() + 3, "{}", errors[0]);
    }
}

#[test]
fn an_address_that_others_reach_is_a_warning() {
    let warnings = compiled("[thrift]\nlisten = \"0.0.0.0:9090\"").unwrap().warnings;
    assert!(
        warnings.iter().any(|w| w.key == "thrift.listen" && w.message.contains("not authenticated")),
        "{warnings:?}"
    );
}
