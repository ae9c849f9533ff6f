//! Text for people is free of the words in `tests/words.txt`: documents, templates, the contract, comments, string
//! literals and the names of tests.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where")]

mod source;

use std::collections::BTreeMap;

use regex::Regex;
use source::{Kind, Source};

/// The list: a word or phrase on a line, and after `#` what to write instead.
const LIST: &str = "tests/words.txt";

/// A word that was found.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    line: usize,
    word: String,
}

/// The words, with what to write instead.
struct Words {
    better: BTreeMap<String, String>,
    pattern: Regex,
}

impl Words {
    fn parse(list: &str) -> Self {
        let mut better = BTreeMap::new();
        for line in list.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let (word, instead) =
                line.split_once('#').unwrap_or_else(|| panic!("{LIST}: no replacement: {line}"));
            let (word, instead) = (spaced(word), instead.trim());
            assert!(!word.is_empty() && !instead.is_empty(), "{LIST}: {line}");
            assert!(better.insert(word, instead.to_owned()).is_none(), "{LIST}: twice: {line}");
        }
        assert!(!better.is_empty(), "{LIST}: there are no words");
        // Of two that begin at one place, the longer.
        let mut words: Vec<&String> = better.keys().collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        // A phrase may be cut by the end of a line, but not by an empty line.
        let gap = r"(?:[ \t]+|[ \t]*\n[ \t]*)";
        let words: Vec<String> = words.iter().map(|word| regex::escape(word).replace(' ', gap)).collect();
        let pattern = Regex::new(&format!(r"(?i)\b(?:{})\b", words.join("|"))).unwrap();
        Self { better, pattern }
    }

    /// The words in a text, with their offsets.
    fn find<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (usize, String)> + 't {
        let found = self.pattern.find_iter(text).filter(|found| {
            // A number is more than its last digits.
            let is_number = found.as_str().starts_with(|first: char| first.is_ascii_digit());
            let before = text.get(..found.start()).unwrap_or_default();
            !(is_number && before.ends_with(['.', ',']))
        });
        found.map(|found| (found.start(), spaced(found.as_str())))
    }

    /// The words in a text as a whole.
    fn in_text(&self, text: &str) -> Vec<Hit> {
        let line = |offset| text.get(..offset).unwrap_or_default().matches('\n').count() + 1;
        self.find(text).map(|(offset, word)| Hit { line: line(offset), word }).collect()
    }

    /// The words in the comments of a source; in Rust, also in its literals and in the names of its tests.
    fn in_source(&self, text: &str, rust: bool) -> Vec<Hit> {
        let source = Source::parse(text);
        let mut hits = Vec::new();
        for piece in source.pieces.iter().filter(|piece| rust || piece.kind == Kind::Comment) {
            hits.extend(self.find(&piece.text).map(|(at, word)| Hit { line: piece.line(at), word }));
        }
        let test = Regex::new(r"#\[test\]\s*(?:#\[[^\]]*\]\s*)*fn (\w+)").unwrap();
        for name in test.captures_iter(&source.code).filter_map(|found| found.get(1)) {
            let line = source.code.get(..name.start()).unwrap_or_default().matches('\n').count() + 1;
            let sentence = name.as_str().replace('_', " ");
            hits.extend(self.find(&sentence).map(|(_, word)| Hit { line, word }));
        }
        hits.sort();
        hits
    }

    /// The words in a file; `None` if it has no text for people.
    fn in_file(&self, path: &str) -> Option<Vec<Hit>> {
        let data = ["tests/cases/", "tests/frozen/"].iter().any(|folder| path.starts_with(folder))
            || path.contains("/samples/");
        let (_, ending) = path.rsplit_once('.').unwrap_or_default();
        let template = path.starts_with("host/templates/");
        let file = || source::read(path);
        match ending {
            "md" => Some(self.in_text(&file())),
            _ if path == LIST || data => None,
            _ if template => Some(self.in_text(&file())),
            "html" | "txt" => Some(self.in_text(&file())),
            "rs" => Some(self.in_source(&file(), true)),
            "wit" => Some(self.in_source(&file(), false)),
            // Comments, and the configuration that `init` writes.
            "toml" | "service" => Some(self.in_text(&file())),
            _ => None,
        }
    }
}

/// In lower case, with single spaces.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[test]
fn text_for_people_is_in_plain_words() {
    let words = Words::parse(&source::read(LIST));
    let (mut files, mut found) = (Vec::new(), Vec::new());
    for path in source::files() {
        let Some(hits) = words.in_file(&path) else { continue };
        for Hit { line, word } in hits {
            found.push(format!("{path}:{line}: `{word}`; better: {}", words.better[&word]));
        }
        files.push(path);
    }
    for path in ["README.md", "docs/goals.md", "wit/processor.wit", "host/src/cli.rs", "tests/words.rs"] {
        assert!(files.iter().any(|read| read == path), "{path} was not read");
    }
    for folder in ["host/templates/", "host/src/service/page/templates/", "plugins/", "plugin-sdk/"] {
        assert!(files.iter().any(|read| read.starts_with(folder)), "nothing in {folder} was read");
    }
    assert!(found.is_empty(), "{} words of {LIST}:\n{}", found.len(), found.join("\n"));
}

#[test]
fn words_are_found_where_people_read() {
    let words = Words::parse("# A list.\n\nfoo  # one\nheld  up # two\nfoo held # three\n1 foos # four\n");
    let hits = |text: &str| {
        let hits = words.in_source(text, true).into_iter();
        hits.map(|hit| format!("{} {}", hit.line, hit.word)).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(hits("let foo = 'f'; // a Foo\n"), ["1 foo"]);
    assert_eq!(hits("//! It is held\n//! up, and so\nfn foo<'a>() {}\n"), ["1 held up"]);
    assert_eq!(hits("// held\n\n// up\nlet held = up;"), none);
    assert_eq!(hits("// held\nlet x = 1; // up"), none);
    assert_eq!(hits("/* a /* foo */\n foo held */ foo"), ["1 foo", "2 foo held"]);
    assert_eq!(hits("let x = \"a\\\n    b held \\\n   up \\\" foo\"; foo"), ["2 held up", "3 foo"]);
    assert_eq!(
        hits("let x = (r#\"a \" foo\"#, br\"foo\", b\"\\\\\", '\"', '\\'', \"\\nfoo\");"),
        ["1 foo"; 3]
    );
    assert_eq!(hits("let x = \"food, foo_bar, 11 foos, 0.1 foos\";"), none);
    assert_eq!(hits("let x = \"1 foos\";"), ["1 1 foos"]);
    assert_eq!(hits("\n#[test]\n#[ignore = \"slow\"]\nfn it_is_held_up() {}\nfn foo() {}"), ["4 held up"]);
    let lines = words.in_text("# Foo\n\nheld\nup").into_iter().map(|hit| hit.line).collect::<Vec<_>>();
    assert_eq!(lines, [1, 3]);
}
