//! The nodes of a graph, read from the file's own bytes: for an error that can name what the library does not.
//!
//! ONNX is a protocol buffer: `ModelProto.graph` is field 7, `GraphProto.node` field 1, and of `NodeProto` the fields 3
//! (name), 4 (operator) and 7 (domain) are read.

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
    use super::*;

    #[test]
    fn the_nodes_of_a_graph_are_read_and_nonsense_is_not() {
        let message = |field: u8, bytes: &[u8]| {
            let length = u8::try_from(bytes.len()).unwrap_or(0);
            [&[field << 3 | 2, length], bytes].concat()
        };
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
        for nonsense in [&b""[..], &[0xff; 40], &model[..9], &[7]] {
            assert!(nodes(nonsense).len() <= 1);
        }
    }
}
