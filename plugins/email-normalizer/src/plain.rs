//! Addresses of plain ASCII without a display name, which nearly every cell is: eight bytes at a time, for in the
//! sandbox each turn of a loop costs a look at the clock.

use crate::Rules;

/// The longest cell that is looked at here: a bit for each byte.
const LONGEST: usize = 64;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// What is told of a cell.
pub(crate) enum Plain {
    /// It was an address, and was appended.
    Written,
    /// It has something in it that needs a closer look, or is no address.
    Unknown,
}

/// Appends the normalized address, if the cell is one of the plain kind.
pub(crate) fn write(cell: &str, rules: &Rules, out: &mut String) -> Plain {
    let bytes = cell.as_bytes();
    let length = bytes.len();
    let Some(seen) = look(bytes) else { return Plain::Unknown };
    let at = seen.ats.trailing_zeros() as usize;
    if seen.ats.count_ones() != 1 || at == 0 || at + 1 >= length {
        return Plain::Unknown;
    }
    let (first, last) = (1_u64 << (at + 1), 1_u64 << (length - 1));
    let local = (1_u64 << at) - 1;
    let domain = (last - first) | last;
    // RFC 5322, 3.2.3: no dot at an end, no two in a row; and no label of the domain begins or ends with a hyphen.
    let (dots, hyphens) = (seen.dots, seen.hyphens & domain);
    let edges = 1 | (1 << (at - 1)) | first | last;
    let begins = (dots << 1) | first;
    let ends = (dots >> 1) | last;
    let whole = dots & edges == 0
        && dots & (dots << 1) == 0
        && dots & domain != 0
        && hyphens & (begins | ends) == 0
        // Two hyphens may be an IDNA label.
        && hyphens & (hyphens << 1) == 0
        && seen.others & domain == 0;
    if !whole || !atoms(bytes, seen.others & local) {
        return Plain::Unknown;
    }
    let provider = || {
        let host = bytes.get(at + 1..).unwrap_or_default();
        let tagged = seen.others & local != 0 && bytes.contains(&b'+');
        tagged || host.eq_ignore_ascii_case(b"gmail.com") || host.eq_ignore_ascii_case(b"googlemail.com")
    };
    if rules.provider_rules && provider() {
        return Plain::Unknown;
    }
    let start = out.len();
    out.push_str(cell);
    let mut capitals = seen.capitals & if rules.lowercase_local { u64::MAX } else { domain };
    while capitals != 0 {
        let place = start + capitals.trailing_zeros() as usize;
        if let Some(capital) = out.get_mut(place..place + 1) {
            capital.make_ascii_lowercase();
        }
        capitals &= capitals - 1;
    }
    Plain::Written
}

/// Where bytes of a kind are, a bit for each.
#[derive(Default)]
struct Seen {
    ats: u64,
    dots: u64,
    hyphens: u64,
    capitals: u64,
    /// Neither letters, digits nor any of the above.
    others: u64,
}

/// Looks at 8 to 64 bytes; `None` if they are fewer or more, or one is not ASCII, white space or a control.
fn look(bytes: &[u8]) -> Option<Seen> {
    if bytes.len() > LONGEST {
        return None;
    }
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut seen = Seen::default();
    let mut shift = 0;
    for chunk in chunks {
        seen.add(u64::from_le_bytes(*chunk), shift)?;
        shift += 8;
    }
    if !rest.is_empty() {
        // The last eight bytes, without those that were looked at, and letters behind them.
        let missing = 8 * (8 - rest.len());
        let word = u64::from_le_bytes(*bytes.last_chunk::<8>()?);
        seen.add((word >> missing) | (ONES * 0x61) << (64 - missing), shift)?;
    }
    Some(seen)
}

impl Seen {
    #[inline]
    fn add(&mut self, word: u64, shift: u32) -> Option<()> {
        if range(word, 0x21, 0x7e) != HIGH {
            return None;
        }
        let (at, dot, hyphen) = (range(word, b'@', b'@'), range(word, b'.', b'.'), range(word, b'-', b'-'));
        let capital = range(word, b'A', b'Z');
        let known = range(word, b'a', b'z') | capital | range(word, b'0', b'9') | at | dot | hyphen;
        self.ats |= bits(at) << shift;
        self.dots |= bits(dot) << shift;
        self.hyphens |= bits(hyphen) << shift;
        self.capitals |= bits(capital) << shift;
        self.others |= bits(HIGH & !known) << shift;
        Some(())
    }
}

/// The high bit of each byte that lies between two others, all of them ASCII.
const fn range(word: u64, from: u8, to: u8) -> u64 {
    let low = word & !HIGH;
    let at_least = low.wrapping_add(ONES.wrapping_mul((0x80 - from) as u64));
    let above = low.wrapping_add(ONES.wrapping_mul((0x7f - to) as u64));
    at_least & !above & !word & HIGH
}

/// The high bits of eight bytes as the bits of one.
const fn bits(high: u64) -> u64 {
    (high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Whether the bytes at these places may stand in a local part besides letters, digits and hyphens.
fn atoms(bytes: &[u8], mut places: u64) -> bool {
    while places != 0 {
        let byte = bytes.get(places.trailing_zeros() as usize);
        let atom = matches!(
            byte,
            Some(b'!' | b'#'..=b'\'' | b'*' | b'+' | b'/' | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~')
        );
        if !atom {
            return false;
        }
        places &= places - 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    /// What is told of a cell here is what the closer look tells.
    fn check(cell: &str) {
        for number in 0..4 {
            let rules = Rules { lowercase_local: number & 1 == 1, provider_rules: number & 2 == 2 };
            let (mut plain, mut whole) = (String::from("x"), String::from("x"));
            if matches!(write(cell, &rules, &mut plain), Plain::Written) {
                let valid = address::normalize(cell, &rules, &mut whole);
                assert_eq!((valid, &plain), (Some(()), &whole), "{cell}");
            } else {
                assert_eq!(plain, "x", "{cell}");
            }
        }
    }

    #[test]
    fn every_short_cell_is_told_as_by_the_closer_look() {
        let letters =
            ["a", "Z", "0", ".", "-", "@", "+", "_", "<", "\"", " ", "é", "xn--", "gmail.com", "@b.c"];
        let mut state = 1_u64;
        for _ in 0..200_000 {
            let mut cell = String::new();
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for place in 0..(state >> 60) {
                let letter = (state >> (place * 4 % 56)) as usize % letters.len();
                cell.push_str(letters[letter]);
            }
            check(&cell);
        }
    }

    #[test]
    fn most_addresses_are_plain() {
        let rules = Rules { lowercase_local: true, provider_rules: false };
        let long = format!("{}@{}.example", "a".repeat(20), "b".repeat(35));
        for cell in ["Ann.Lee@Example.COM", "a_b+c'd@x-y.example", "12345@mail.example", &long] {
            let mut out = String::new();
            assert!(matches!(write(cell, &rules, &mut out), Plain::Written), "{cell}");
            assert_eq!(out, cell.to_lowercase());
        }
        assert_eq!(long.len(), 64);
    }
}
