//! Reads from the bytes of a graph what the library does not report: its nodes, for errors that
//! name one, and the files that hold its weights.
//!
//! ONNX is a protocol buffer. What is read of it, by the numbers of the fields:
//!
//! ```text
//! ModelProto      7 graph
//! GraphProto      1 node, 5 initializer, 15 sparse_initializer (1 values, 2 indices)
//! NodeProto       3 name, 4 operator, 5 attribute, 7 domain
//! AttributeProto  5 t, 6 g, 10 tensors, 11 graphs
//! TensorProto     13 external_data (1 key, 2 value)
//! ```

use std::collections::BTreeSet;

/// Graphs inside graphs that are looked into: the bodies of loops and branches.
const MAX_DEPTH: usize = 16;

/// One operation of a graph.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) operator: String,
    /// Empty for ONNX's own operators.
    pub(super) domain: String,
}

/// The nodes of the main graph; those before the first byte that is not as it should be.
pub(super) fn nodes(model: &[u8]) -> Vec<Node> {
    let graphs = Fields(model).filter(|(field, _)| *field == 7);
    let nodes = graphs.flat_map(|(_, graph)| Fields(graph).filter(|(field, _)| *field == 1));
    nodes
        .map(|(_, bytes)| {
            let mut node = Node::default();
            for (field, bytes) in Fields(bytes) {
                let text = || String::from_utf8_lossy(bytes).into_owned();
                match field {
                    3 => node.name = text(),
                    4 => node.operator = text(),
                    7 => node.domain = text(),
                    _ => {}
                }
            }
            node
        })
        .collect()
}

/// The files that hold tensors of the graph, as the graph names them.
pub(super) fn external_files(model: &[u8]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (_, graph) in Fields(model).filter(|(field, _)| *field == 7) {
        files_of_graph(graph, 0, &mut files);
    }
    files
}

fn files_of_graph(graph: &[u8], depth: usize, files: &mut BTreeSet<String>) {
    if depth > MAX_DEPTH {
        return;
    }
    for (field, bytes) in Fields(graph) {
        match field {
            1 => {
                let attributes = Fields(bytes).filter(|(field, _)| *field == 5);
                for (field, value) in attributes.flat_map(|(_, attribute)| Fields(attribute)) {
                    match field {
                        5 | 10 => file_of_tensor(value, files),
                        6 | 11 => files_of_graph(value, depth + 1, files),
                        _ => {}
                    }
                }
            }
            5 => file_of_tensor(bytes, files),
            15 => Fields(bytes).for_each(|(_, tensor)| file_of_tensor(tensor, files)),
            _ => {}
        }
    }
}

fn file_of_tensor(tensor: &[u8], files: &mut BTreeSet<String>) {
    for (_, entry) in Fields(tensor).filter(|(field, _)| *field == 13) {
        let part =
            |wanted: u64| Fields(entry).find_map(|(field, text)| (field == wanted).then_some(text));
        if let (Some(b"location"), Some(file)) = (part(1), part(2)) {
            files.insert(String::from_utf8_lossy(file).into_owned());
        }
    }
}

/// The length-delimited fields of a message, by number; fields of other kinds are passed over.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let tag = self.varint()?;
            match tag & 7 {
                0 => {
                    self.varint()?;
                }
                1 => {
                    self.take(8)?;
                }
                2 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    return Some((tag >> 3, self.take(length)?));
                }
                5 => {
                    self.take(4)?;
                }
                _ => return None,
            }
        }
    }
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Seven bits a byte, the lowest first; at most ten bytes.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::{bounded, cases, damage};

    /// A field of at most 16,383 bytes.
    fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
        let length = bytes.len();
        let length = [length as u8 & 0x7f | 0x80, (length >> 7) as u8];
        [&[field << 3 | 2], &length[..], bytes].concat()
    }

    #[test]
    fn the_nodes_of_a_graph_are_read_and_nonsense_is_not() {
        let node = [
            message(1, b"X"),
            message(3, b"the_node"),
            message(4, b"Frobnicate"),
            message(7, b"com.example"),
        ];
        let mut model = vec![0x08, 0x80, 0x01]; // ir_version, a number of two bytes
        model.extend(message(7, &message(1, &node.concat())));
        let expected = Node {
            name: "the_node".into(),
            operator: "Frobnicate".into(),
            domain: "com.example".into(),
        };
        assert_eq!(nodes(&model), [expected]);
        assert!(external_files(&model).is_empty());
        for nonsense in [&b""[..], &[0xff; 40], &model[..12], &[7]] {
            assert!(nodes(nonsense).len() <= 1);
        }
    }

    #[test]
    fn the_files_of_tensors_are_found_wherever_tensors_are() {
        let tensor =
            |file: &[u8]| message(13, &[message(1, b"location"), message(2, file)].concat());
        let attribute = |field, value: &[u8]| message(1, &message(5, &message(field, value)));
        let branch = attribute(5, &tensor(b"branch"));
        let graph = [
            message(5, &tensor(b"weights")),
            message(5, &tensor(b"weights")),
            message(
                5,
                &message(13, &[message(1, b"offset"), message(2, b"0")].concat()),
            ),
            message(15, &message(1, &tensor(b"sparse"))),
            attribute(10, &tensor(b"list")),
            attribute(6, &branch),
        ];
        let model = message(7, &graph.concat());
        let found: Vec<_> = external_files(&model).into_iter().collect();
        assert_eq!(found, ["branch", "list", "sparse", "weights"]);
    }
    proptest! {
        #![proptest_config(cases(1_000))]

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200),
            damage in damage()) {
            let outside = include_bytes!("../../../tests/graphs/outside.onnx");
            let operator = include_bytes!("../../../tests/graphs/unknown-operator.onnx");
            for file in [bytes, damage.of(outside, outside.len()), damage.of(operator,
                operator.len())] {
                bounded(file.len(), || (nodes(&file), external_files(&file)));
            }
        }
    }
}
