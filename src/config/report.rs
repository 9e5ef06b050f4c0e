// SPDX-License-Identifier: Apache-2.0
//! The mistakes of one file, collected while it is read, and where its keys stand.

use std::path::{Path, PathBuf};

use crate::diagnostic::{kinds, Diagnostic, Place};
use crate::json::Position;
use crate::list;

/// Most mistakes kept of one file: a file of rubbish must not fill the memory or the log.
const MAX_MISTAKES: usize = 100;

kinds! {
    MORE: Error "config-more" in Config {
        "a file has more mistakes than are listed",
        cure: "correct the mistakes above, then check the file again",
    }
}

/// Where the keys of a file stand, by their path, in its order: `memory.size`, `regions[1].label`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(Vec<(String, Position)>);

impl Places {
    /// The position of `key`, or of the nearest key above it that the file has (`memory` for an absent
    /// `memory.size`), or the file's start.
    fn of(&self, key: &str) -> Position {
        let mut key = key;
        loop {
            if let Some((_, position)) = self.0.iter().find(|(path, _)| path == key) {
                return *position;
            }
            match key.rfind(['.', '[']) {
                Some(at) => key = &key[..at],
                None => return Position::START,
            }
        }
    }

    /// The place of `key` in `file`.
    pub(super) fn place(&self, file: &Path, key: &str) -> Place {
        self.of(key).place(file, key)
    }
}

/// What is known of a file while it is read.
pub(super) struct Report {
    file: PathBuf,
    places: Places,
    mistakes: Vec<Diagnostic>,
    left_out: usize,
}

impl Report {
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), places: Places::default(), mistakes: Vec::new(), left_out: 0 }
    }

    /// The file, for its config.
    pub fn file(&self) -> PathBuf {
        self.file.clone()
    }

    /// The places of the keys read so far, for its config.
    pub fn places(&self) -> Places {
        self.places.clone()
    }

    /// Notes where a key stands.
    pub fn found(&mut self, key: String, position: Position) {
        self.places.0.push((key, position));
    }

    /// Adds a mistake of `key`.
    pub fn add(&mut self, key: &str, mistake: Diagnostic) {
        let position = if self.is_full() { Position::WHOLE } else { self.places.of(key) };
        self.add_at(position, key, mistake);
    }

    /// Adds a mistake of `key` that is elsewhere than the key.
    pub fn add_at(&mut self, position: Position, key: &str, mistake: Diagnostic) {
        if self.is_full() {
            self.left_out += 1;
        } else {
            self.mistakes.push(mistake.at(position.place(&self.file, key)));
        }
    }

    /// Further mistakes are only counted, so looking for their cure is wasted work.
    pub fn is_full(&self) -> bool {
        self.mistakes.len() >= MAX_MISTAKES
    }

    /// All mistakes, in the order of the file.
    pub fn end(mut self) -> Vec<Diagnostic> {
        sort(&mut self.mistakes);
        if self.left_out > 0 {
            let more = MORE.case(format!("the file has {} more mistakes", self.left_out));
            self.mistakes.push(more.at(Position::WHOLE.place(&self.file, "")));
        }
        self.mistakes
    }
}

/// Sorts mistakes of one file by their place; those of one place stay as they are.
pub(super) fn sort(mistakes: &mut [Diagnostic]) {
    let place = |of: &Diagnostic| of.place.as_ref().map(|place| (place.line, place.column));
    list::sort(mistakes, |a, b| place(a) < place(b));
}
