// SPDX-License-Identifier: Apache-2.0
//! Texts come back whole and have fewer bytes, and [`WORDS`] are made from them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use super::*;
use crate::cli::daemon::HELPS;
use crate::diagnostic::Kind;
use crate::explain;

/// What is packed: the kinds' texts and the helps.
fn texts() -> Vec<String> {
    let texts = |kind: &Kind| [kind.name(), kind.summary(), kind.cause(), kind.cure()].join("\0");
    let helps = HELPS.iter().map(Packed::to_string);
    explain::kinds().into_iter().map(texts).chain(helps).collect()
}

fn packed_now(text: &str) -> Packed {
    let room = pack(&joined(&[text]));
    Packed(room.bytes[..room.len()].to_vec().leak())
}

#[test]
fn a_text_comes_back_whole() {
    const TWO: Packed = packed!("the kernel", "");
    assert_eq!(TWO.to_string(), "the kernel\0");
    assert_eq!(packed!().to_string(), "");
    for (at, word) in WORDS.iter().enumerate() {
        let next = WORDS[(at + 1) % WORDS.len()];
        for text in [word.to_string(), format!("{word}{next}"), format!("{next}~{word}")] {
            assert_eq!(packed_now(&text).to_string(), text);
        }
    }
}

#[test]
fn texts_have_fewer_bytes_packed() {
    let texts = texts();
    let plain: usize = texts.iter().map(String::len).sum();
    let packed: usize = texts.iter().map(|text| packed_now(text).0.len()).sum();
    let all = packed + size_of_val(&PARTS);
    println!("{plain} bytes as text; packed {packed}, {all} with the words");
    assert!(
        all * 100 < plain * 45,
        "the words no longer fit the texts: GUNYAHD_WRITE_WORDS=1 cargo test --lib words_are_made"
    );
}

/// The characters that are words now, then again and again the two words that most often stand side by side, as
/// one. The most frequent come first.
fn made(texts: &[String]) -> Vec<String> {
    let character = |word: &&&str| word.chars().count() == 1;
    let mut words: Vec<String> = WORDS.iter().filter(character).map(|&c| c.to_owned()).collect();
    words.sort();
    let mut texts: Vec<Vec<usize>> = texts
        .iter()
        .map(|text| {
            let word = |c: char| words.iter().position(|word| *word == c.to_string()).unwrap();
            text.chars().map(word).collect()
        })
        .collect();
    while words.len() < MOST {
        let mut pairs = BTreeMap::new();
        for pair in texts.iter().flat_map(|text| text.windows(2)) {
            *pairs.entry([pair[0], pair[1]]).or_insert(0) += 1;
        }
        let (&pair, _) = pairs.iter().max_by_key(|(_, count)| **count).unwrap();
        let both = words.len();
        words.push(format!("{}{}", words[pair[0]], words[pair[1]]));
        for text in &mut texts {
            let mut at = 0;
            while at + 1 < text.len() {
                if text[at..at + 2] == pair {
                    text.splice(at..at + 2, [both]);
                }
                at += 1;
            }
        }
    }
    let mut counts = vec![0; words.len()];
    for &word in texts.iter().flatten() {
        counts[word] += 1;
    }
    let mut order: Vec<usize> = (0..words.len()).collect();
    order.sort_by_key(|&word| std::cmp::Reverse(counts[word]));
    order.into_iter().map(|word| words[word].clone()).collect()
}

#[test]
fn the_words_are_made_from_the_texts() {
    if std::env::var_os("GUNYAHD_WRITE_WORDS").is_none() {
        return;
    }
    let words = made(&texts());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/packed/words.rs");
    let old = fs::read_to_string(path).unwrap();
    let mut page = old[..old.find("[\n").unwrap() + 2].to_owned();
    let mut line = String::new();
    for word in words {
        let item = format!("{word:?},");
        if line.len() + item.len() + 5 > 110 {
            let _ = writeln!(page, "   {line}");
            line.clear();
        }
        let _ = write!(line, " {item}");
    }
    let _ = write!(page, "   {line}\n];\n");
    fs::write(path, page).unwrap();
}
