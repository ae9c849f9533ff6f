use std::borrow::Cow;

/// The cell without characters that have no width, which spreadsheets and web pages leave in copied text.
pub(crate) fn without_invisible(cell: &str) -> Cow<'_, str> {
    if cell.is_ascii() || !cell.contains(is_invisible) {
        return Cow::Borrowed(cell);
    }
    Cow::Owned(cell.chars().filter(|character| !is_invisible(*character)).collect())
}

/// Whether a character is a soft hyphen, a zero-width space or joiner, a mark of the text's direction, or a byte-order mark.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}'
    )
}
