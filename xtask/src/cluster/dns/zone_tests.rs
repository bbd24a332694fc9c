#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn zone() -> Zone {
    let services = [
        (
            "web",
            json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}),
        ),
        (
            "db",
            json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
        ),
        ("empty", json!({"clusterIP": "None"})),
        (
            "alias",
            json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
        ),
        (
            "outside",
            json!({"type": "ExternalName", "externalName": "example.com"}),
        ),
    ];
    let database = json!({
        "metadata": {"name": "db", "namespace": "default"},
        "subsets": [{
            "addresses": [{"ip": "10.244.0.4", "hostname": "db-0"}, {"ip": "10.244.0.5"}],
            "notReadyAddresses": [{"ip": "10.244.0.6"}],
            "ports": [{"name": "sql", "port": 5433}],
        }],
    });
    let object = |(name, spec): (&str, Value)| {
        let value = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        Arc::new(serde_json::from_value(value).unwrap())
    };
    Zone {
        services: services.into_iter().map(object).collect(),
        endpoints: vec![Arc::new(serde_json::from_value(database).unwrap())],
    }
}

/// The data of the answer, as text.
fn ask(name: &str, kind: RecordType) -> Result<Vec<String>, Answer> {
    match zone().answer(&Name::from_utf8(name).unwrap(), kind) {
        Answer::Records(records) => Ok(records
            .iter()
            .map(|record| record.data.to_string())
            .collect()),
        none => Err(none),
    }
}

#[test]
fn a_service_has_its_cluster_address() {
    assert_eq!(
        ask("web.default.svc.cluster.local.", RecordType::A).unwrap(),
        ["10.96.0.7"]
    );
    assert_eq!(
        ask("WEB.Default.svc.cluster.local.", RecordType::A).unwrap(),
        ["10.96.0.7"]
    );
}

#[test]
fn a_service_without_the_type_asked_for_is_there_all_the_same() {
    // Else resolvers that ask for A and AAAA at once take the whole name for unknown.
    assert_eq!(
        ask("web.default.svc.cluster.local.", RecordType::AAAA),
        Err(Answer::NoData)
    );
    assert_eq!(
        ask("empty.default.svc.cluster.local.", RecordType::A),
        Err(Answer::NoData)
    );
    assert_eq!(
        ask("default.svc.cluster.local.", RecordType::A),
        Err(Answer::NoData)
    );
}

#[test]
fn what_the_search_list_makes_of_a_full_name_is_unknown() {
    for name in [
        "web.default.svc.cluster.local.default.svc.cluster.local.",
        "web.default.svc.svc.cluster.local.",
        "nobody.default.svc.cluster.local.",
        "web.other.svc.cluster.local.",
        "other.svc.cluster.local.",
        "notcluster.local.",
        "example.com.",
    ] {
        assert_eq!(ask(name, RecordType::A), Err(Answer::Unknown), "{name}");
    }
}

#[test]
fn a_headless_service_has_the_addresses_of_its_ready_pods() {
    assert_eq!(
        ask("db.default.svc.cluster.local.", RecordType::A).unwrap(),
        ["10.244.0.4", "10.244.0.5"]
    );
}

#[test]
fn pods_of_a_headless_service_have_names() {
    assert_eq!(
        ask("db-0.db.default.svc.cluster.local.", RecordType::A).unwrap(),
        ["10.244.0.4"]
    );
    assert_eq!(
        ask("10-244-0-5.db.default.svc.cluster.local.", RecordType::A).unwrap(),
        ["10.244.0.5"]
    );
    assert_eq!(
        ask("db-1.db.default.svc.cluster.local.", RecordType::A),
        Err(Answer::Unknown)
    );
}

#[test]
fn an_alias_is_answered_with_what_it_stands_for() {
    let alias = "alias.default.svc.cluster.local.";
    assert_eq!(
        ask(alias, RecordType::A).unwrap(),
        ["web.default.svc.cluster.local.", "10.96.0.7"]
    );
    assert_eq!(
        ask(alias, RecordType::CNAME).unwrap(),
        ["web.default.svc.cluster.local."]
    );
    assert_eq!(
        ask("outside.default.svc.cluster.local.", RecordType::A).unwrap(),
        ["example.com."]
    );
}

#[test]
fn a_named_port_says_where_it_is_served() {
    assert_eq!(
        ask("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV).unwrap(),
        ["0 100 80 web.default.svc.cluster.local."]
    );
    assert_eq!(
        ask("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV).unwrap(),
        [
            "0 100 5433 db-0.db.default.svc.cluster.local.",
            "0 100 5433 10-244-0-5.db.default.svc.cluster.local."
        ]
    );
    assert_eq!(
        ask("_http._udp.web.default.svc.cluster.local.", RecordType::SRV),
        Err(Answer::Unknown)
    );
}

#[test]
fn an_address_has_the_name_of_its_service_or_pod() {
    assert_eq!(
        ask("7.0.96.10.in-addr.arpa.", RecordType::PTR).unwrap(),
        ["web.default.svc.cluster.local."]
    );
    assert_eq!(
        ask("4.0.244.10.in-addr.arpa.", RecordType::PTR).unwrap(),
        ["db-0.db.default.svc.cluster.local."]
    );
    assert_eq!(
        ask("8.0.96.10.in-addr.arpa.", RecordType::PTR),
        Err(Answer::Unknown)
    );
}
