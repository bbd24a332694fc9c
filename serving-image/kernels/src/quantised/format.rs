//! The formats of ggml's blocks of weights.

use half::f16;

use super::BLOCK;

/// Weights of a block with scales of 6 bits.
const LARGE: usize = 256;

/// A format of ggml that is packed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFormat {
    /// 4 bits and a scale; −8 to 7.
    Q4_0,
    /// 4 bits, a scale and an offset; 0 to 15.
    Q4_1,
    /// 5 bits and a scale; −16 to 15.
    Q5_0,
    /// 5 bits, a scale and an offset; 0 to 31.
    Q5_1,
    /// Signed bytes and a scale.
    Q8_0,
    /// 4 bits, and for each 32 of 256 a scale and an offset of 6 bits.
    Q4K,
    /// 5 bits, and for each 32 of 256 a scale and an offset of 6 bits.
    Q5K,
}

impl BlockFormat {
    /// Bytes of a block in a file.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
            Self::Q5_0 => 2 + 4 + BLOCK / 2,
            Self::Q5_1 => 4 + 4 + BLOCK / 2,
            Self::Q8_0 => 2 + BLOCK,
            Self::Q4K => 4 + 12 + LARGE / 2,
            Self::Q5K => 4 + 12 + LARGE / 8 + LARGE / 2,
        }
    }

    /// Whether weights are kept in 4 bits; else in 8.
    pub(super) fn is_nibbles(self) -> bool {
        matches!(self, Self::Q4_0 | Self::Q4_1 | Self::Q4K)
    }

    /// Whether weights are kept with an offset. Q4_0's −8 is one: its quants are kept as 0 to 15.
    pub(super) fn has_offset(self) -> bool {
        !matches!(self, Self::Q5_0 | Self::Q8_0)
    }

    /// Gives away the quants, scale and offset of each 32 weights of a block, in their order.
    pub(super) fn unpack(self, block: &[u8], mut give: impl FnMut(&[u8; BLOCK], f32, f32)) {
        let float = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let (first, second) = (float(0), float(2));
        let mut quants = [0; BLOCK];
        match self {
            Self::Q4_0 => {
                split(&block[2..], &mut quants);
                give(&quants, first, -8.0 * first);
            }
            Self::Q4_1 => {
                split(&block[4..], &mut quants);
                give(&quants, first, second);
            }
            Self::Q5_0 => {
                split(&block[6..], &mut quants);
                add_fifth_bits(&block[2..6], &mut quants);
                quants = quants.map(|quant| quant.wrapping_sub(16));
                give(&quants, first, 0.0);
            }
            Self::Q5_1 => {
                split(&block[8..], &mut quants);
                add_fifth_bits(&block[4..8], &mut quants);
                give(&quants, first, second);
            }
            Self::Q8_0 => {
                quants.copy_from_slice(&block[2..]);
                give(&quants, first, 0.0);
            }
            Self::Q4K | Self::Q5K => {
                let (bits, nibbles) = block[16..].split_at(block.len() - 16 - LARGE / 2);
                for part in 0..LARGE / BLOCK {
                    // Two parts share 32 bytes: the low halves, then the high ones. All share the
                    // bytes of fifth bits.
                    let own = &nibbles[part / 2 * BLOCK..];
                    for (place, quant) in quants.iter_mut().enumerate() {
                        let fifth = bits.get(place).map_or(0, |bits| bits >> part & 1);
                        *quant = (own[place] >> (part % 2 * 4) & 15) | fifth << 4;
                    }
                    let (scale, offset) = six_bits(&block[4..16], part);
                    give(
                        &quants,
                        first * f32::from(scale),
                        -second * f32::from(offset),
                    );
                }
            }
        }
    }
}

/// Weight `i` is the low half of byte `i`, weight `i + 16` the high half.
fn split(bytes: &[u8], quants: &mut [u8; BLOCK]) {
    let (low, high) = quants.split_at_mut(BLOCK / 2);
    for (byte, (low, high)) in bytes.iter().zip(low.iter_mut().zip(high)) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// Bit `i` of four bytes is the fifth of weight `i`.
fn add_fifth_bits(bytes: &[u8], quants: &mut [u8; BLOCK]) {
    for (place, quant) in quants.iter_mut().enumerate() {
        *quant |= (bytes[place / 8] >> (place % 8) & 1) << 4;
    }
}

/// Scale and offset of one of eight parts. Four bytes hold the scales of the first four parts in
/// their low 6 bits, four the offsets, and four the low halves of the others, whose two high bits
/// are those that the first eight do not need.
fn six_bits(bytes: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        (bytes[part] & 63, bytes[part + 4] & 63)
    } else {
        (
            bytes[part + 4] & 15 | bytes[part - 4] >> 6 << 4,
            bytes[part + 4] >> 4 | bytes[part] >> 6 << 4,
        )
    }
}
