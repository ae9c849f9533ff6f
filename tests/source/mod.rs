//! The repository's files as tests read them, and Rust's sources taken apart into code, comments and string literals.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where")]

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..")
}

/// The paths of all files, from the root, in order. Folders that a build writes are left out.
pub(crate) fn files() -> Vec<String> {
    let (mut files, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if entry.file_type().unwrap().is_dir() {
                if !name.starts_with('.')
                    && !["target", "built", "corpus", "artifacts"].contains(&name.as_str())
                {
                    folders.push(path);
                }
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The text of a file.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Where a piece of text is found in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Comment,
    Literal,
}

/// A comment or a string literal. Line comments that follow each other are one piece.
pub(crate) struct Piece {
    pub(crate) kind: Kind,
    /// Without the marks of a comment, and with escapes resolved.
    pub(crate) text: String,
    /// Where in the text which line begins: offset and line.
    lines: Vec<(usize, usize)>,
}

impl Piece {
    fn new(kind: Kind) -> Self {
        Self { kind, text: String::new(), lines: Vec::new() }
    }

    fn push(&mut self, character: char, line: usize) {
        if self.lines.last().is_none_or(|(_, last)| *last != line) {
            self.lines.push((self.text.len(), line));
        }
        self.text.push(character);
    }

    /// The line, from 1, of an offset in the text.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.lines.iter().rev().find(|(begin, _)| *begin <= offset).map_or(1, |(_, line)| *line)
    }
}

/// A source in Rust, or in a language with the same comments.
pub(crate) struct Source {
    /// The code, with its line breaks. Comments are gone, and string literals are empty.
    pub(crate) code: String,
    /// Comments and literals in their order.
    pub(crate) pieces: Vec<Piece>,
}

impl Source {
    /// Takes a source apart.
    pub(crate) fn parse(text: &str) -> Self {
        let mut scanner = Scanner {
            characters: text.chars().collect(),
            at: 0,
            line: 1,
            after_comment: None,
            found: Self { code: String::new(), pieces: Vec::new() },
        };
        scanner.run();
        scanner.found
    }
}

struct Scanner {
    characters: Vec<char>,
    at: usize,
    /// The line of the next character, from 1.
    line: usize,
    /// The length of the code where the last line comment ended.
    after_comment: Option<usize>,
    found: Source,
}

impl Scanner {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn is_at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, character)| self.peek(ahead) == Some(character))
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek(0)?;
        self.at += 1;
        self.line += usize::from(character == '\n');
        Some(character)
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.next();
        }
    }

    fn run(&mut self) {
        while let Some(character) = self.peek(0) {
            let before = self.line;
            if self.is_at("//") {
                self.line_comment();
            } else if self.is_at("/*") {
                self.block_comment();
            } else if let Some(hashes) = self.raw_literal() {
                self.skip(hashes + 2);
                self.literal(Some(hashes));
            } else if character == '"' {
                self.skip(1);
                self.literal(None);
            } else if character == '\'' {
                self.character_or_lifetime();
            } else {
                self.skip(1);
                self.found.code.push(character);
                continue;
            }
            // The code keeps its lines.
            self.found.code.extend(std::iter::repeat_n('\n', self.line - before));
        }
    }

    /// `//`, `///` or `//!` to the end of the line.
    fn line_comment(&mut self) {
        let between = self.after_comment.and_then(|end| self.found.code.get(end..));
        let follows = between.is_some_and(|code| code.trim().is_empty() && code.matches('\n').count() <= 1);
        let mut piece = match self.found.pieces.pop_if(|_| follows) {
            Some(piece) => piece,
            None => Piece::new(Kind::Comment),
        };
        while self.peek(0).is_some_and(|character| character == '/' || character == '!') {
            self.skip(1);
        }
        piece.push(' ', self.line);
        while self.peek(0).is_some_and(|character| character != '\n') {
            let line = self.line;
            piece.push(self.next().unwrap(), line);
        }
        self.found.pieces.push(piece);
        self.after_comment = Some(self.found.code.len());
    }

    /// `/* … */`, which may hold others.
    fn block_comment(&mut self) {
        let (mut piece, mut depth) = (Piece::new(Kind::Comment), 0);
        loop {
            if self.is_at("/*") {
                depth += 1;
                self.skip(2);
            } else if self.is_at("*/") {
                depth -= 1;
                self.skip(2);
            } else {
                let line = self.line;
                let Some(character) = self.next() else { break };
                piece.push(if character == '*' { ' ' } else { character }, line);
            }
            if depth == 0 {
                break;
            }
        }
        self.found.pieces.push(piece);
    }

    /// How many `#` a raw literal has that begins here.
    fn raw_literal(&self) -> Option<usize> {
        let is_word = |character: &char| character.is_alphanumeric() || *character == '_';
        let before: String = self.found.code.chars().rev().take_while(is_word).collect();
        if self.peek(0) != Some('r') || !["", "b", "c"].contains(&before.as_str()) {
            return None;
        }
        let hashes =
            self.characters.iter().skip(self.at + 1).take_while(|character| **character == '#').count();
        (self.peek(hashes + 1) == Some('"')).then_some(hashes)
    }

    /// The rest of a string literal; of a raw one with the number of its `#`.
    fn literal(&mut self, raw: Option<usize>) {
        let mut piece = Piece::new(Kind::Literal);
        loop {
            let line = self.line;
            let Some(character) = self.next() else { break };
            match (character, raw) {
                ('"', Some(hashes)) if (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) => {
                    self.skip(hashes);
                    break;
                }
                ('"', None) => break,
                ('\\', None) => self.escape(&mut piece, line),
                (character, _) => piece.push(character, line),
            }
        }
        self.found.pieces.push(piece);
        self.found.code.push_str("\"\"");
    }

    /// What follows a `\` in a literal.
    fn escape(&mut self, piece: &mut Piece, line: usize) {
        match self.next() {
            // The text continues at the next character that is not white.
            Some('\n') => {
                while self.peek(0).is_some_and(char::is_whitespace) {
                    self.skip(1);
                }
            }
            Some('n' | 'r' | 't' | '0') => piece.push(' ', line),
            Some('x') => {
                self.skip(2);
                piece.push('?', line);
            }
            Some('u') => {
                while self.next().is_some_and(|character| character != '}') {}
                piece.push('?', line);
            }
            Some(character) => piece.push(character, line),
            None => {}
        }
    }

    fn character_or_lifetime(&mut self) {
        if self.peek(1) == Some('\\') {
            self.skip(3);
            while self.next().is_some_and(|character| character != '\'') {}
        } else if self.peek(2) == Some('\'') {
            self.skip(3);
        } else {
            self.skip(1);
        }
        self.found.code.push('\'');
    }
}
