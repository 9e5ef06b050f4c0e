// SPDX-License-Identifier: Apache-2.0
//! How sizes, durations, errnos and text from elsewhere are written for people, each in one place.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// A number of bytes: `64 MiB`; with `{:#}` as a config file writes it, `64M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, shift) in [("G", 30), ("M", 20), ("K", 10)] {
            if self.0 >> shift > 0 && self.0 % (1 << shift) == 0 {
                let number = self.0 >> shift;
                return match f.alternate() {
                    true => write!(f, "{number}{letter}"),
                    false => write!(f, "{number} {letter}iB"),
                };
            }
        }
        match f.alternate() {
            true => write!(f, "{}", self.0),
            false => write!(f, "{} bytes", self.0),
        }
    }
}

/// A number of things, by the word for one: `1 page`, `3 pages`, `2 memory entries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<'a>(pub u64, pub &'a str);

impl<'a> Count<'a> {
    /// A list's.
    pub fn of(length: usize, one: &'a str) -> Self {
        Self(u64::try_from(length).unwrap_or(u64::MAX), one)
    }
}

impl fmt::Display for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, one) = self;
        match (number, one.strip_suffix('y')) {
            (1, _) => write!(f, "1 {one}"),
            (_, Some(stem)) => write!(f, "{number} {stem}ies"),
            (_, None) => write!(f, "{number} {one}s"),
        }
    }
}

/// A duration: `850 µs`, `1.5 s`, `10 min`, `3 h`, `2 d`; with `{:#}` as a config file writes it, exact to the
/// millisecond: `1500ms`, `10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// A span of milliseconds.
    pub fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 128 bits would bring their own division and printing.
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        let millis = micros / 1000;
        if f.alternate() {
            for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1000, "s")] {
                if millis >= unit && millis % unit == 0 {
                    return write!(f, "{}{name}", millis / unit);
                }
            }
            return write!(f, "{millis}ms");
        }
        match millis {
            0 if micros > 0 => write!(f, "{micros} µs"),
            0..=9 if micros % 1000 != 0 => write!(f, "{millis}.{} ms", micros % 1000 / 100),
            0..=999 => write!(f, "{millis} ms"),
            1_000..=119_999 if millis % 1_000 < 100 => write!(f, "{} s", millis / 1_000),
            1_000..=119_999 => write!(f, "{}.{} s", millis / 1_000, millis % 1_000 / 100),
            120_000..=7_199_999 => write!(f, "{} min", millis / 60_000),
            7_200_000..=172_799_999 => write!(f, "{} h", millis / 3_600_000),
            _ => write!(f, "{} d", millis / 86_400_000),
        }
    }
}

/// The errno of a failed call; EIO for what has none, such as a file that ends too early.
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// The answer of a failed call by its name and meaning: `ENOENT (No such file or directory)`.
pub fn failure(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => errno_name(errno),
        None => error.to_string(),
    }
}

/// The names of the errnos from 1 on, the same on every architecture that Android has. Those that nix derives are
/// four times as large.
const SYMBOLS: &str = "\
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY \
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK \
    EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT \
    EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR ENODATA \
    ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW \
    ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK \
    EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT \
    EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS \
    EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS \
    ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED \
    EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON";

/// An errno's name, which is what people search for.
pub fn symbol(errno: Errno) -> &'static str {
    let before = usize::try_from(errno as i32 - 1).ok();
    before.and_then(|before| SYMBOLS.split(' ').nth(before)).unwrap_or("unknown errno")
}

/// An errno by its name and its meaning.
pub fn errno_name(errno: Errno) -> String {
    // The C library's words, which the program has in any case: `I/O error (os error 5)`.
    let said = io::Error::from(errno).to_string();
    format!("{} ({})", symbol(errno), said.split(" (os error").next().unwrap_or_default())
}

/// Numbers as a file has them: `[0, 1, 5]`.
pub fn array(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    format!("[{}]", numbers.join(", "))
}

/// `text` with every character written out that is not seen as itself, as in `\n` and `\u{1b}`: none of
/// it forges a line, moves a terminal's cursor or turns the direction of writing.
pub fn printable(text: &str) -> Cow<'_, str> {
    written_out(text, is_unseen)
}

/// The same, but lines stay lines.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    written_out(text, |c| is_unseen(c) && c != '\n')
}

fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The beginning of `text`, printable, for quoting it in a message.
pub fn excerpt(text: &str) -> String {
    const LONGEST: usize = 48;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text).into_owned(),
    }
}

// Rust's own escapes bring tables of all characters.
fn written_out(text: &str, what: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(what) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            c if !what(c) => out.push(c),
            '\0' => out.push_str("\\0"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// Declares an enum whose variants have one word each, the same in JSON, properties and messages.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$what])* $variant,)*
        }

        impl $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];
            const WORDS: &'static [&'static str] = &[$($word),*];

            /// Its word.
            pub fn as_str(self) -> &'static str {
                Self::WORDS[self as usize]
            }
        }

        impl $crate::json::Json for $name {
            fn blank() -> Self {
                Self::ALL[0]
            }

            fn to_json(&self) -> $crate::json::Value<'_> {
                self.as_str().into()
            }

            fn read(&mut self, node: &$crate::json::Node<'_>) -> Result<(), String> {
                *self = Self::ALL[$crate::json::which(Self::WORDS, node)?];
                Ok(())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_has_the_name_that_the_kernel_gives_it() {
        for errno in (1..200).map(Errno::from_raw) {
            let name = match errno {
                Errno::UnknownErrno => "unknown errno".to_owned(),
                errno => format!("{errno:?}"),
            };
            assert_eq!(symbol(errno), name);
        }
        assert_eq!(symbol(Errno::EHWPOISON), "EHWPOISON");
    }

    #[test]
    fn control_characters_are_written_out() {
        assert!(matches!(printable("plain ü"), Cow::Borrowed(_)));
        assert_eq!(printable("a\nb\x1b[31m\u{9b}\u{202e}"), "a\\nb\\u{1b}[31m\\u{9b}\\u{202e}");
        assert_eq!(printable_lines("a\nb\r\x07"), "a\nb\\r\\u{7}");
    }

    #[test]
    fn sizes_for_people_and_for_files() {
        for (bytes, people, file) in [
            (0, "0 bytes", "0"),
            (17, "17 bytes", "17"),
            (4 << 10, "4 KiB", "4K"),
            (1025, "1025 bytes", "1025"),
            (64 << 20, "64 MiB", "64M"),
            (3 << 30, "3 GiB", "3G"),
        ] {
            assert_eq!(Size(bytes).to_string(), people);
            assert_eq!(format!("{:#}", Size(bytes)), file);
        }
    }

    #[test]
    fn counts_are_singular_or_plural() {
        for (count, text) in [
            (Count(0, "vCPU"), "0 vCPUs"),
            (Count(1, "vCPU"), "1 vCPU"),
            (Count(1, "memory entry"), "1 memory entry"),
            (Count(2, "memory entry"), "2 memory entries"),
        ] {
            assert_eq!(count.to_string(), text);
        }
    }

    #[test]
    fn spans_for_people_and_for_files() {
        for (micros, people, file) in [
            (0, "0 ms", "0ms"),
            (850, "850 µs", "0ms"),
            (1_200, "1.2 ms", "1ms"),
            (50_000, "50 ms", "50ms"),
            (1_500_000, "1.5 s", "1500ms"),
            (10_000_000, "10 s", "10s"),
            (600_000_000, "10 min", "10m"),
            (10_800_000_000, "3 h", "3h"),
            (180_000_000_000, "2 d", "50h"),
        ] {
            let span = Span(Duration::from_micros(micros));
            assert_eq!(span.to_string(), people);
            assert_eq!(format!("{span:#}"), file);
        }
    }
}
