use std::borrow::Cow;

use crate::Rules;
use crate::plain::{self, Plain};

/// RFC 5321, 4.5.3.1.
const MAX_LOCAL_BYTES: usize = 64;
const MAX_ADDRESS_BYTES: usize = 254;

/// Providers where what follows a `+` in the local part is ignored.
const PLUS_TAGS: [&str; 10] = [
    "gmail.com",
    "outlook.com",
    "hotmail.com",
    "live.com",
    "icloud.com",
    "me.com",
    "fastmail.com",
    "proton.me",
    "protonmail.com",
    "pm.me",
];

/// Appends the normalized address. `None` if the cell holds no address; the caller then removes what was appended.
pub(crate) fn normalize(cell: &str, rules: &Rules, out: &mut String) -> Option<()> {
    let address = bare(trim(cell))?;
    if address.len() < cell.len() {
        match plain::write(address, rules, out) {
            Plain::Written => return Some(()),
            Plain::NoAddress => return None,
            Plain::Unknown => {}
        }
    }
    normalize_bare(address, rules, out)
}

/// As [`normalize`], for an address with nothing around it.
pub(crate) fn normalize_bare(address: &str, rules: &Rules, out: &mut String) -> Option<()> {
    let start = out.len();
    let (local, domain) = address.rsplit_once('@')?;
    let domain = domain_to_ascii(domain)?;
    let domain = match domain.as_ref() {
        "googlemail.com" if rules.provider_rules => "gmail.com",
        domain => domain,
    };
    let local = match local.split_once('+') {
        Some((name, _)) if rules.provider_rules && PLUS_TAGS.contains(&domain) => name,
        _ => local,
    };
    if !is_dot_atom(local) {
        return None;
    }
    let without_dots = rules.provider_rules && domain == "gmail.com";
    if local.is_ascii() && !without_dots {
        let from = out.len();
        out.push_str(local);
        if let (true, Some(local)) = (rules.lowercase_local, out.get_mut(from..)) {
            local.make_ascii_lowercase();
        }
    } else {
        for character in local.chars().filter(|character| !(without_dots && *character == '.')) {
            match rules.lowercase_local {
                true => out.extend(character.to_lowercase()),
                false => out.push(character),
            }
        }
    }
    if out.len() - start > MAX_LOCAL_BYTES {
        return None;
    }
    out.push('@');
    out.push_str(domain);
    (out.len() - start <= MAX_ADDRESS_BYTES).then_some(())
}

/// The address of `Ann Lee <ann@example.com>`, of `mailto:ann@example.com`, or the cell itself.
fn bare(cell: &str) -> Option<&str> {
    match cell.strip_suffix('>') {
        Some(rest) => Some(trim(rest.rsplit_once('<')?.1)),
        None => Some(cell.strip_prefix("mailto:").unwrap_or(cell)),
    }
}

/// The cell without white space around it. Most cells have none, which their first and last byte show.
pub(crate) fn trim(cell: &str) -> &str {
    let plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_graphic);
    let bytes = cell.as_bytes();
    if plain(bytes.first()) && plain(bytes.last()) { cell } else { cell.trim() }
}

/// The domain in lower case and, where it is not ASCII, in its IDNA form (UTS 46). It needs a dot: an address at a bare
/// host name is a mistake.
fn domain_to_ascii(domain: &str) -> Option<Cow<'_, str>> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let simple = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    // Almost every domain is ASCII and needs no IDNA.
    let plain = domain.bytes().all(simple)
        && !domain.as_bytes().windows(4).any(|four| four.eq_ignore_ascii_case(b"xn--"));
    let ascii = match (plain, domain.bytes().any(|byte| byte.is_ascii_uppercase())) {
        (true, false) => Cow::Borrowed(domain),
        (true, true) => Cow::Owned(domain.to_ascii_lowercase()),
        (false, _) => Cow::Owned(idna::domain_to_ascii_strict(domain).ok()?),
    };
    let label =
        |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    (ascii.contains('.') && ascii.len() <= 253 && ascii.split('.').all(label)).then_some(ascii)
}

/// RFC 5322, 3.2.3, with the non-ASCII letters of RFC 6532. Quoted local parts are not used in practice.
fn is_dot_atom(local: &str) -> bool {
    let ascii = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'/' | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~' | b'.'
            )
    };
    let beyond =
        |character: char| character.is_ascii() || !(character.is_control() || character.is_whitespace());
    let bytes = local.as_bytes();
    bytes.iter().all(|byte| ascii(*byte) || !byte.is_ascii())
        && (local.is_ascii() || local.chars().all(beyond))
        && bytes.first().is_some_and(|first| *first != b'.')
        && bytes.last() != Some(&b'.')
        && !bytes.windows(2).any(|two| two == b"..")
}
