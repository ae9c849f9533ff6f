//! The debug information of components, by which a crash names files and lines. The host reads it when a plugin crashes, and takes
//! many times its size for that: a plugin that brings much of it loses it.

/// Bytes of debug information, without its texts, which are only looked up. A plugin in Rust, with its standard library, has 2 MiB.
const MAX_DEBUG: usize = 4 << 20;
/// How deep components may lie in each other; the compiler accepts fewer.
const MAX_DEPTH: usize = 1000;

const CUSTOM: u8 = 0;
/// In a component.
const CORE_MODULE: u8 = 1;
/// In a component.
const COMPONENT: u8 = 4;
/// The magic number, the version and the layer.
const HEADER: usize = 8;

/// The component without its debug information if that is large, and otherwise nothing. A component that is damaged is left to the
/// compiler.
pub(crate) fn without_large_debug(component: &[u8]) -> Option<Vec<u8>> {
    (size_of(component, 0) > MAX_DEBUG).then(|| stripped(component, 0))
}

/// A section with its header, and its content.
struct Section<'b> {
    id: u8,
    whole: &'b [u8],
    content: &'b [u8],
}

impl Section<'_> {
    /// Whether other sections lie in it.
    fn is_nested(&self, in_component: bool) -> bool {
        in_component && matches!(self.id, CORE_MODULE | COMPONENT)
    }

    fn debug_name(&self) -> Option<&[u8]> {
        let (length, rest) = number(self.content)?;
        rest.get(..length).filter(|name| self.id == CUSTOM && name.starts_with(b".debug_"))
    }
}

/// The sections up to the first that is damaged.
fn sections(binary: &[u8]) -> impl Iterator<Item = Section<'_>> {
    let mut rest = binary.get(HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (id, after_id) = rest.split_first()?;
        let (length, after_length) = number(after_id)?;
        let (content, after) = after_length.split_at_checked(length)?;
        let (whole, _) = rest.split_at_checked(rest.len() - after.len())?;
        rest = after;
        Some(Section { id: *id, whole, content })
    })
}

/// A number of 32 bits in LEB128, and what follows it.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0_usize;
    for (place, byte) in bytes.iter().take(5).enumerate() {
        number |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(place + 1..)?));
        }
    }
    None
}

fn is_component(binary: &[u8]) -> bool {
    binary.get(4..HEADER) == Some(&[0x0d, 0, 1, 0])
}

fn size_of(binary: &[u8], depth: usize) -> usize {
    let in_component = is_component(binary);
    let sizes = sections(binary).map(|section| match section.debug_name() {
        _ if depth < MAX_DEPTH && section.is_nested(in_component) => size_of(section.content, depth + 1),
        Some(b".debug_str" | b".debug_line_str") | None => 0,
        Some(_) => section.content.len(),
    });
    sizes.fold(0, usize::saturating_add)
}

fn stripped(binary: &[u8], depth: usize) -> Vec<u8> {
    let in_component = is_component(binary);
    let mut left: Vec<u8> = binary.get(..HEADER).unwrap_or(binary).to_owned();
    let mut seen = left.len();
    for section in sections(binary) {
        seen += section.whole.len();
        if depth < MAX_DEPTH && section.is_nested(in_component) {
            let content = stripped(section.content, depth + 1);
            left.push(section.id);
            let mut length = content.len();
            while length > 0x7f {
                left.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
                length >>= 7;
            }
            left.push(u8::try_from(length).unwrap_or(0));
            left.extend_from_slice(&content);
        } else if section.debug_name().is_none() {
            left.extend_from_slice(section.whole);
        }
    }
    // What is damaged stays damaged.
    left.extend_from_slice(binary.get(seen..).unwrap_or_default());
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section of less than 2 MiB, whose length takes three bytes.
    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let bytes = [(length & 0x7f) | 0x80, ((length >> 7) & 0x7f) | 0x80, length >> 14];
        let bytes = bytes.map(|byte| u8::try_from(byte).unwrap());
        [&[id][..], &bytes, content].concat()
    }

    fn custom(name: &str, size: usize) -> Vec<u8> {
        let name = [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        section(CUSTOM, &[name, vec![7; size]].concat())
    }

    fn component(sections: &[Vec<u8>]) -> Vec<u8> {
        let module = [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat();
        let inner = [b"\0asm\x0d\0\x01\0".to_vec(), section(CORE_MODULE, &module)].concat();
        [b"\0asm\x0d\0\x01\0".to_vec(), section(COMPONENT, &inner), custom("producers", 3)].concat()
    }

    #[test]
    fn only_large_debug_information_is_removed() {
        let small = component(&[section(10, b"code"), custom(".debug_line", 1000), custom("name", 5)]);
        assert_eq!(without_large_debug(&small), None);
        let large = component(&[section(10, b"code"), custom(".debug_str", 1 << 20), custom("name", 5)]);
        assert_eq!(without_large_debug(&large), None);
        let lines =
            vec![
                section(CORE_MODULE, &[b"\0asm\x01\0\0\0".to_vec(), custom(".debug_line", 1 << 20)].concat());
                5
            ];
        let large = [b"\0asm\x0d\0\x01\0".to_vec(), lines.concat(), custom("producers", 3)].concat();
        let left = without_large_debug(&large).unwrap();
        let empty = [1, 8, 0, b'a', b's', b'm', 1, 0, 0, 0].repeat(5);
        assert_eq!(left, [b"\0asm\x0d\0\x01\0".to_vec(), empty, custom("producers", 3)].concat());
    }

    #[test]
    fn damaged_components_are_left_to_the_compiler() {
        for damaged in
            [&b""[..], b"\0asm", b"\0asm\x0d\0\x01\0\x01", b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(without_large_debug(damaged), None);
            assert_eq!(stripped(damaged, 0), damaged);
        }
    }
}
