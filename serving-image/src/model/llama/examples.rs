//! GGUF files for tests, written value by value.

/// Numbers of the types of values.
pub(super) const U32: u32 = 4;
pub(super) const I32: u32 = 5;
pub(super) const F32: u32 = 6;
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;

/// What a header consists of.
#[derive(Debug, Default)]
pub(super) struct Parts {
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
}

impl Parts {
    pub(super) fn key(mut self, name: &str, kind: u32, value: impl AsRef<[u8]>) -> Self {
        let entry = [&text(name), &kind.to_le_bytes()[..], value.as_ref()];
        self.keys.push(entry.concat());
        self
    }

    /// A tensor in ggml's format of that number. The shape is as in the file, columns first.
    pub(super) fn tensor(mut self, name: &str, format: u32, shape: &[u64], offset: u64) -> Self {
        let shape: Vec<u8> = [shape.len() as u32]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .chain(shape.iter().flat_map(|n| n.to_le_bytes()))
            .collect();
        let entry = [
            &text(name),
            &shape,
            &format.to_le_bytes()[..],
            &offset.to_le_bytes()[..],
        ];
        self.tensors.push(entry.concat());
        self
    }

    /// The header, of version 3.
    pub(super) fn header(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.keys.len() as u64];
        let mut header = b"GGUF\x03\0\0\0".to_vec();
        header.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        header.extend(self.keys.concat());
        header.extend(self.tensors.concat());
        header
    }
}

/// A string, with its length.
pub(super) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An array's value: the type of its elements, their number, and they themselves.
pub(super) fn array(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    let length = (elements.len() as u64).to_le_bytes();
    [&kind.to_le_bytes()[..], &length[..], &elements.concat()].concat()
}
