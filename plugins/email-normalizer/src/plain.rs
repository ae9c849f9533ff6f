//! A fast path for ASCII addresses without a display name, as nearly every cell is. It works on many bytes at a time: in the
//! sandbox, each iteration of a loop also checks the deadline.

use crate::Rules;
use crate::look::look;

/// The result of the fast path.
pub(crate) enum Plain {
    /// The cell is an address. It was appended.
    Written,
    /// The cell is not an address.
    NoAddress,
    /// The cell needs the general path.
    Unknown,
}

/// Appends the normalized address, if the fast path can decide.
#[inline(always)]
pub(crate) fn write(cell: &str, rules: &Rules, out: &mut String) -> Plain {
    let start = out.len();
    #[expect(unsafe_code, reason = "only bytes that are ASCII are appended")]
    // SAFETY: ASCII is UTF-8.
    let bytes = unsafe { out.as_mut_vec() };
    let result = append(cell.as_bytes(), rules, bytes);
    if !matches!(result, Plain::Written) {
        bytes.truncate(start);
    }
    result
}

/// Appends the cell in lower case while it classifies the bytes. The caller keeps the text only if the cell is an address.
#[inline(always)]
fn append(bytes: &[u8], rules: &Rules, out: &mut Vec<u8>) -> Plain {
    let (start, length) = (out.len(), bytes.len());
    let Some(seen) = look(bytes, out) else { return Plain::Unknown };
    let at = seen.ats.trailing_zeros() as usize;
    if seen.ats.count_ones() != 1 || at == 0 || at + 1 >= length {
        return if seen.others == 0 { Plain::NoAddress } else { Plain::Unknown };
    }
    let (first, last) = (1_u64 << (at + 1), 1_u64 << (length - 1));
    let local = (1_u64 << at) - 1;
    let domain = (last - first) | last;
    // RFC 5322, 3.2.3: no dot at an end, no two dots in a row. No label of the domain begins or ends with a hyphen.
    let (dots, hyphens) = (seen.dots, seen.hyphens & domain);
    let edges = 1 | (1 << (at - 1)) | first;
    let begins = (dots << 1) | first;
    let ends = (dots >> 1) | last;
    // Two hyphens may begin an IDNA label. A domain may end with a dot.
    let plain = hyphens & (hyphens << 1) == 0 && dots & last == 0 && seen.others & domain == 0;
    if !plain || (seen.others != 0 && !atoms(bytes, seen.others & local)) {
        return Plain::Unknown;
    }
    let whole =
        dots & edges == 0 && dots & (dots << 1) == 0 && dots & domain != 0 && hyphens & (begins | ends) == 0;
    if !whole {
        return Plain::NoAddress;
    }
    if rules.provider_rules && provider(bytes, at, seen.others & local) {
        return Plain::Unknown;
    }
    if !rules.lowercase_local
        && let (Some(to), Some(from)) = (out.get_mut(start..start + at), bytes.get(..at))
    {
        to.copy_from_slice(from);
    }
    Plain::Written
}

/// Whether a provider may ignore parts of the address.
fn provider(bytes: &[u8], at: usize, others: u64) -> bool {
    let host = bytes.get(at + 1..).unwrap_or_default();
    let tagged = others != 0 && bytes.contains(&b'+');
    tagged || host.eq_ignore_ascii_case(b"gmail.com") || host.eq_ignore_ascii_case(b"googlemail.com")
}

/// Whether the bytes at these places are allowed in a local part.
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

    /// The fast path decides as the general path does.
    fn check(cell: &str) {
        for number in 0..4 {
            let rules = Rules { lowercase_local: number & 1 == 1, provider_rules: number & 2 == 2 };
            let (mut plain, mut whole) = (String::from("x"), String::from("x"));
            let result = write(cell, &rules, &mut plain);
            let valid = address::normalize_bare(cell, &rules, &mut whole);
            match result {
                Plain::Written => assert_eq!((valid, &plain), (Some(()), &whole), "{cell}"),
                Plain::NoAddress => assert_eq!((valid, plain.as_str()), (None, "x"), "{cell}"),
                Plain::Unknown => assert_eq!(plain, "x", "{cell}"),
            }
        }
    }

    #[test]
    fn the_fast_path_agrees_with_the_general_path() {
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
    fn most_addresses_take_the_fast_path() {
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
