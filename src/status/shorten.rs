// SPDX-License-Identifier: Apache-2.0
//! Messages made short enough for a property, the journal or an answer, so that what tells most stays.

/// What a diagnostic says besides what is wrong; what goes first stands first.
const CLAUSES: [&str; 2] = ["; cure: ", "; likely cause: "];

/// `text` as one line of at most `limit` bytes. What goes first is the cure, then the cause, then the
/// end of the rest; a diagnostic's name in brackets stays.
pub fn shorten(text: &str, limit: usize) -> String {
    let one_line = |text: &str| text.replace(char::is_control, " ");
    if text.len() <= limit {
        return one_line(text);
    }
    let (mut body, mut name) = split_name(text);
    if name.len() >= limit {
        (body, name) = (text, "");
    }
    let room = limit - name.len();
    for clause in CLAUSES {
        if body.len() > room {
            body = body.split(clause).next().unwrap_or(body);
        }
    }
    if body.len() <= room {
        return one_line(body) + name;
    }
    let mut end = room.saturating_sub('…'.len_utf8());
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…{name}", one_line(&body[..end]))
}

/// `text` without likely cause and cure, for where it is told again; a diagnostic's name stays.
pub fn brief(text: &str) -> String {
    let (mut body, name) = split_name(text);
    for clause in CLAUSES {
        body = body.split(clause).next().unwrap_or(body);
    }
    format!("{body}{name}")
}

/// What a text says, and the name in brackets at its end.
fn split_name(text: &str) -> (&str, &str) {
    match text.rfind(" [") {
        Some(at) if is_name(&text[at..]) => text.split_at(at),
        _ => (text, ""),
    }
}

/// ` [dtb-no-chosen]`
fn is_name(text: &str) -> bool {
    let name = text.strip_prefix(" [").and_then(|t| t.strip_suffix(']'));
    name.is_some_and(|name| {
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_most_stays() {
        let text =
            "start: START: ENODEV (No such device); likely cause: the resource manager refused \
                    the devicetree; cure: gunyahd check [start-enodev]";
        assert_eq!(shorten(text, 200), text);
        assert_eq!(
            shorten(text, 130),
            "start: START: ENODEV (No such device); likely cause: the resource manager refused the \
             devicetree [start-enodev]"
        );
        assert_eq!(shorten(text, 91), "start: START: ENODEV (No such device) [start-enodev]");
        assert_eq!(shorten(text, 40), "start: START: ENODEV (… [start-enodev]");
        assert_eq!(shorten(text, 10), "start: …");
    }

    #[test]
    fn what_is_told_again_is_told_without_cause_and_cure() {
        let text = "start: START: ENODEV; likely cause: that; or that; cure: this [start-enodev]";
        assert_eq!(brief(text), "start: START: ENODEV [start-enodev]");
        assert_eq!(brief("a pool is short; cure: more"), "a pool is short");
        assert_eq!(brief("see [1]; and more"), "see [1]; and more");
    }

    #[test]
    fn a_line_is_short_and_one_line() {
        assert_eq!(shorten("a\nb\x1b[31m", 80), "a b [31m");
        let long = shorten(&"é".repeat(600), 1024);
        assert!(long.len() <= 1024 && long.ends_with('…'));
        assert_eq!(shorten("see [1] or [No 2]", 12), "see [1] o…");
    }
}
