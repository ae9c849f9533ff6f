//! Finds the bytes of a cell that matter to an address, and writes the cell in lower case.

/// Bytes of a cell at most: a `u64` has one bit for each.
const MAX_BYTES: usize = 64;

/// The places of each kind of byte, one bit a byte.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    pub ats: u64,
    pub dots: u64,
    pub hyphens: u64,
    /// All other bytes, except letters and digits.
    pub others: u64,
}

/// Classifies 8 to 64 bytes and appends them in lower case. `None` for fewer or more bytes, or if one is not ASCII; the
/// caller then removes what was appended.
#[inline(always)]
pub(crate) fn look(bytes: &[u8], out: &mut Vec<u8>) -> Option<Seen> {
    #[cfg(target_feature = "simd128")]
    if bytes.len() >= 16 {
        return walk(bytes, out, vectors::look);
    }
    walk(bytes, out, words::look)
}

/// Classifies a cell in pieces. The last piece may overlap the one before, with the same result.
#[inline(always)]
fn walk<const WIDTH: usize>(
    bytes: &[u8],
    out: &mut Vec<u8>,
    look: impl Fn([u8; WIDTH]) -> Option<([u8; WIDTH], Seen)>,
) -> Option<Seen> {
    let (first, last) = (bytes.first_chunk::<WIDTH>()?, bytes.last_chunk::<WIDTH>()?);
    if bytes.len() > MAX_BYTES {
        return None;
    }
    let (start, last_from) = (out.len(), bytes.len() - WIDTH);
    let ((first, seen), (last, found)) = (look(*first)?, look(*last)?);
    let mut seen = seen.with(found, last_from);
    out.extend_from_slice(&first);
    let mut place = WIDTH;
    while place < last_from {
        let (small, found) = look(*bytes.get(place..)?.first_chunk()?)?;
        out.extend_from_slice(&small);
        seen = seen.with(found, place);
        place += WIDTH;
    }
    out.truncate(start + last_from);
    out.extend_from_slice(&last);
    Some(seen)
}

impl Seen {
    #[inline(always)]
    fn with(self, found: Self, place: usize) -> Self {
        let place = place as u32;
        Self {
            ats: self.ats | found.ats.wrapping_shl(place),
            dots: self.dots | found.dots.wrapping_shl(place),
            hyphens: self.hyphens | found.hyphens.wrapping_shl(place),
            others: self.others | found.others.wrapping_shl(place),
        }
    }
}

/// 8 bytes at a time.
mod words {
    use super::Seen;

    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;

    /// These bytes in lower case, and the kinds of them. `None` if one is not ASCII.
    #[inline(always)]
    pub(super) fn look(bytes: [u8; 8]) -> Option<([u8; 8], Seen)> {
        let word = u64::from_le_bytes(bytes);
        if word & HIGH != 0 {
            return None;
        }
        // Bit 5 makes lower case of upper case.
        let letter = range(word | (ONES * 0x20), b'a', b'z');
        let (at, dot, hyphen) = (equal(word, b'@'), equal(word, b'.'), equal(word, b'-'));
        let other = HIGH & !(letter | range(word, b'0', b'9') | at | dot | hyphen);
        let seen = Seen { ats: bits(at), dots: bits(dot), hyphens: bits(hyphen), others: bits(other) };
        Some(((word | (letter >> 2)).to_le_bytes(), seen))
    }

    /// The high bit of each ASCII byte from `from` to `to`.
    const fn range(word: u64, from: u8, to: u8) -> u64 {
        let at_least = word.wrapping_add(ONES.wrapping_mul((0x80 - from) as u64));
        let above = word.wrapping_add(ONES.wrapping_mul((0x7f - to) as u64));
        at_least & !above & HIGH
    }

    /// The high bit of each ASCII byte that equals `byte`.
    const fn equal(word: u64, byte: u8) -> u64 {
        !(word ^ ONES.wrapping_mul(byte as u64)).wrapping_add(!HIGH) & HIGH
    }

    /// The high bits of eight bytes as the bits of one.
    const fn bits(high: u64) -> u64 {
        (high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    }
}

/// 16 bytes at a time, with the vector instructions of WebAssembly.
#[cfg(target_feature = "simd128")]
mod vectors {
    use std::arch::wasm32::{
        u8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, u8x16_sub, u64x2, u64x2_extract_lane, v128, v128_and,
        v128_or,
    };

    use super::Seen;

    /// These bytes in lower case, and the kinds of them. `None` if one is not ASCII.
    #[inline(always)]
    pub(super) fn look(bytes: [u8; 16]) -> Option<([u8; 16], Seen)> {
        let bytes = u128::from_le_bytes(bytes);
        let bytes = u64x2(bytes as u64, (bytes >> 64) as u64);
        if u8x16_bitmask(bytes) != 0 {
            return None;
        }
        let all = u8x16_splat;
        // Bit 5 makes lower case of upper case.
        let letter = u8x16_lt(u8x16_sub(v128_or(bytes, all(0x20)), all(b'a')), all(26));
        let digit = u8x16_lt(u8x16_sub(bytes, all(b'0')), all(10));
        let [at, dot, hyphen] = [b'@', b'.', b'-'].map(|byte| u8x16_eq(bytes, all(byte)));
        let known = v128_or(v128_or(letter, digit), v128_or(v128_or(at, dot), hyphen));
        let place = |mask: v128| u64::from(u8x16_bitmask(mask));
        let seen = Seen {
            ats: place(at),
            dots: place(dot),
            hyphens: place(hyphen),
            others: u64::from(!u8x16_bitmask(known)),
        };
        let small = v128_or(bytes, v128_and(letter, all(0x20)));
        let (first, second) = (u64x2_extract_lane::<0>(small), u64x2_extract_lane::<1>(small));
        Some(((u128::from(first) | (u128::from(second) << 64)).to_le_bytes(), seen))
    }
}
