//! The schema of a version's pod settings. It refuses what a Deployment would refuse, and names the
//! field and the remedy.
//!
//! Kubernetes' own schema of these types has no rules. Lengths are bounded, since the API server
//! refuses a CRD rule whose estimated cost exceeds its budget.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A DNS subdomain, the name of most objects: Secrets, ConfigMaps, ServiceAccounts.
const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A key of labels, taints and resources: `DOMAIN/NAME`, or only the name.
const QUALIFIED: &str =
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// A value of labels and taints.
const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
/// A key in a Secret or a ConfigMap.
const DATA_KEY: &str = r"^[-._a-zA-Z0-9]+$";
/// Fields of a pod that an environment variable can refer to.
const POD_FIELD: &str = concat!(
    r"^(metadata[.](name|namespace|uid|labels\['[^']+'\]|annotations\['[^']+'\])|",
    r"spec[.](nodeName|serviceAccountName)|status[.](hostIP|hostIPs|podIP|podIPs))$",
);
/// Resources of a container that an environment variable can refer to.
const RESOURCE_FIELD: &str =
    r"^(limits|requests)[.](cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMGT]i)$";
/// Names of resources, beyond those of Kubernetes itself: `nvidia.com/gpu`.
const RESOURCE_NAME: &str = concat!(
    r"^(cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMGT]i|",
    r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)$",
);

/// The schema of a text of at most `longest` characters that matches `pattern`; `remedy` is its
/// error message.
pub(super) fn text(longest: u32, pattern: &str, remedy: &str) -> Value {
    json!({
        "type": "string", "maxLength": longest,
        "x-kubernetes-validations": [{"rule": matches(pattern), "message": remedy}],
    })
}

/// The CEL rule that a text matches `pattern`.
pub(super) fn matches(pattern: &str) -> String {
    format!("self.matches({})", quoted(pattern))
}

fn quoted(pattern: &str) -> String {
    format!("'{}'", pattern.replace('\\', r"\\").replace('\'', r"\'"))
}

fn object_name(kind: &str) -> Value {
    let remedy = format!(
        "expected the name of a {kind} of this namespace: small letters, digits, - and ., a letter \
         or digit at both ends"
    );
    text(253, OBJECT_NAME, &remedy)
}

fn data_key(kind: &str) -> Value {
    let remedy = format!("expected a key of the {kind}: letters, digits, -, _ and .");
    text(253, DATA_KEY, &remedy)
}

pub(super) fn service_account(_: &mut SchemaGenerator) -> Schema {
    schema(object_name("ServiceAccount"))
}

pub(super) fn credentials(_: &mut SchemaGenerator) -> Schema {
    schema(object_name("Secret"))
}

pub(super) fn pull_secrets(_: &mut SchemaGenerator) -> Schema {
    schema(json!({
        "type": "array", "maxItems": 16,
        "items": {"type": "object", "required": ["name"],
            "properties": {"name": object_name("Secret")}},
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
    }))
}

pub(super) fn arguments(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 64, "items": {"type": "string", "maxLength": 8192}})
}

pub(super) fn http_path(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        1024,
        "^/",
        "expected a path that starts with /, such as /health",
    ))
}

pub(super) fn pull_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Always", "IfNotPresent", "Never"]})
}

pub(super) fn environment(_: &mut SchemaGenerator) -> Schema {
    let key_of = |kind: &str| {
        json!({
            "type": "object", "required": ["name", "key"],
            "properties": {"name": object_name(kind), "key": data_key(kind),
                "optional": {"type": "boolean"}},
        })
    };
    let one_source = "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef), \
                      has(self.resourceFieldRef)].exists_one(set, set)";
    schema(json!({
        "type": "array", "maxItems": 64,
        "items": {
            "type": "object", "required": ["name"],
            "properties": {
                "name": text(256, "^[ -<>-~]+$", "expected the name of a variable: printable ASCII \
                    characters without ="),
                "value": {"type": "string", "maxLength": 32768},
                "valueFrom": {
                    "type": "object",
                    "properties": {
                        "secretKeyRef": key_of("Secret"),
                        "configMapKeyRef": key_of("ConfigMap"),
                        "fieldRef": {
                            "type": "object", "required": ["fieldPath"],
                            "properties": {
                                "apiVersion": {"type": "string", "enum": ["v1"]},
                                "fieldPath": text(400, POD_FIELD, "expected a field that variables \
                                    can have: metadata.name, .namespace, .uid, .labels['KEY'] or \
                                    .annotations['KEY'], spec.nodeName or .serviceAccountName, \
                                    status.hostIP, .hostIPs, .podIP or .podIPs"),
                            },
                        },
                        "resourceFieldRef": {
                            "type": "object", "required": ["resource"],
                            "properties": {
                                "containerName": {"type": "string", "maxLength": 63},
                                "resource": text(64, RESOURCE_FIELD, "expected limits or requests \
                                    of cpu, memory, ephemeral-storage or hugepages-SIZE, such as \
                                    limits.memory"),
                                "divisor": quantity(),
                            },
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": one_source,
                        "message": "set exactly one of secretKeyRef, configMapKeyRef, fieldRef and \
                            resourceFieldRef",
                    }],
                },
            },
            "x-kubernetes-validations": [{
                "rule": "!has(self.valueFrom) || !has(self.value) || self.value == ''",
                "message": "a variable has either a value or valueFrom; remove one",
            }],
        },
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
    }))
}

fn quantity() -> Value {
    json!({
        "x-kubernetes-int-or-string": true, "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "isQuantity(string(self)) && !quantity(string(self)).isLessThan(quantity('0'))",
            "message": "expected a quantity from 0 on, such as 500m, 2 or 4Gi",
        }],
    })
}

pub(super) fn resources(_: &mut SchemaGenerator) -> Schema {
    // Compares only resources that both maps name with well-formed quantities; a malformed quantity
    // is refused by its own rule.
    let both = "k in self.limits && isQuantity(string(self.limits[k])) && \
        isQuantity(string(self.requests[k]))";
    let order = "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k])))";
    let named = |wrong: &str, remedy: &str| {
        json!({
            "rule": format!("!self.exists(k, {wrong})"),
            "messageExpression": format!("self.filter(k, {wrong})[0] + ': {remedy}'"),
            "message": remedy,
        })
    };
    let amounts = json!({
        "type": "object", "maxProperties": 16, "additionalProperties": quantity(),
        "x-kubernetes-validations": [
            named(&format!("!k.matches({})", quoted(RESOURCE_NAME)),
                "expected cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME such as \
                 nvidia.com/gpu"),
            named("k.contains('/') && isQuantity(string(self[k])) && \
                !quantity(string(self[k])).isInteger()",
                "expected a whole number, since devices are not divided"),
        ],
    });
    let above = format!("{both} && {order} > 0");
    let differs = format!("k.contains('/') && !({both} && {order} == 0)");
    let of_both = |wrong: &str, remedy: &str| {
        json!({
            "rule": format!("!has(self.requests) || !has(self.limits) || !self.requests.exists(k, \
                {wrong})"),
            "messageExpression": format!("'requests of ' + self.requests.filter(k, {wrong})[0] + ' \
                {remedy}'"),
            "message": format!("requests {remedy}"),
        })
    };
    schema(json!({
        "type": "object",
        "properties": {"limits": amounts, "requests": amounts},
        "x-kubernetes-validations": [
            of_both(&above, "are above the limit; lower them, or raise the limit"),
            {
                "rule": "!has(self.requests) || has(self.limits) || !self.requests.exists(k, \
                    k.contains('/'))",
                "message": "devices such as nvidia.com/gpu need a limit; set limits to the \
                    same number",
            },
            of_both(&differs, "differ from the limit, and devices are not overcommitted; set both \
                to the same number"),
        ],
    }))
}

pub(super) fn node_selector(_: &mut SchemaGenerator) -> Schema {
    let wrong = format!("!k.matches({})", quoted(QUALIFIED));
    let remedy =
        "expected the key of a label: at most 63 letters, digits, -, _ and ., after DOMAIN/ or not";
    schema(json!({
        "type": "object", "maxProperties": 32,
        "additionalProperties": text(63, LABEL_VALUE,
            "expected the value of a label: at most 63 letters, digits, -, _ and ., a letter or \
             digit at both ends"),
        "x-kubernetes-validations": [{
            "rule": format!("!self.exists(k, {wrong})"),
            "messageExpression": format!("self.filter(k, {wrong})[0] + ': {remedy}'"),
            "message": remedy,
        }],
    }))
}

pub(super) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    schema(json!({
        "type": "array", "maxItems": 16,
        "items": {
            "type": "object",
            "properties": {
                "key": text(317, &format!("^$|{QUALIFIED}"), "expected the key of a taint: at most \
                    63 letters, digits, -, _ and ., after DOMAIN/ or not"),
                "operator": {"type": "string", "enum": ["Exists", "Equal"]},
                "value": text(63, LABEL_VALUE, "expected the value of a taint: at most 63 letters, \
                    digits, -, _ and ."),
                "effect": {"type": "string",
                    "enum": ["", "NoSchedule", "PreferNoSchedule", "NoExecute"]},
                "tolerationSeconds": {"type": "integer", "format": "int64"},
            },
            "x-kubernetes-validations": [
                {
                    "rule": "(has(self.key) && self.key != '') || (has(self.operator) && \
                        self.operator == 'Exists')",
                    "message": "name the key of a taint; or set operator: Exists to tolerate \
                        every taint",
                },
                {
                    "rule": "!has(self.operator) || self.operator != 'Exists' || !has(self.value) \
                        || self.value == ''",
                    "message": "operator: Exists takes no value; remove one",
                },
                {
                    "rule": "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == \
                        'NoExecute')",
                    "message": "tolerationSeconds needs effect: NoExecute",
                },
            ],
        },
    }))
}

fn schema(value: Value) -> Schema {
    // Every caller passes a JSON object.
    Schema::try_from(value).unwrap_or_default()
}
