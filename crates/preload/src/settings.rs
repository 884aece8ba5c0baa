//! The environment variables, read once, without allocating. The crate's documentation has the table.

use core::ffi::CStr;
use core::ptr;

use heapwright_core::misuse::OnMisuse;
use libc::{c_char, c_int};

use crate::report::Out;

/// The form of the heap map.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    Text,
    Json,
}

/// What the environment asks for.
pub(crate) struct Settings {
    pub(crate) stats: bool,
    pub(crate) map: Option<Map>,
    pub(crate) check: bool,
    /// When to print, if not at exit.
    pub(crate) signal: Option<c_int>,
    /// Where to print, if not on standard error.
    pub(crate) output: Option<&'static Path>,
    pub(crate) on_misuse: OnMisuse,
}

/// An absolute path, unless there was no working directory to begin it with; `%p` is still in it.
pub(crate) struct Path {
    text: [u8; Self::MOST],
    length: usize,
}

/// Signals that may be chosen by name.
const SIGNALS: [(&[u8], c_int); 9] = [
    (b"USR1", libc::SIGUSR1),
    (b"USR2", libc::SIGUSR2),
    (b"HUP", libc::SIGHUP),
    (b"INT", libc::SIGINT),
    (b"QUIT", libc::SIGQUIT),
    (b"TERM", libc::SIGTERM),
    (b"ALRM", libc::SIGALRM),
    (b"URG", libc::SIGURG),
    (b"WINCH", libc::SIGWINCH),
];

impl Settings {
    /// What these variables say; one that says nothing that is known is named on standard error.
    ///
    /// # Safety
    ///
    /// `environment` is a program's environment.
    pub(crate) unsafe fn read(environment: *const *const c_char) -> Self {
        let mut settings = Self {
            stats: false,
            map: None,
            check: false,
            signal: None,
            output: None,
            on_misuse: OnMisuse::Abort,
        };
        let mut at = environment;
        // SAFETY: the environment is an array of strings that ends with a null pointer.
        while let Some(variable) = unsafe { at.as_ref() }
            && !variable.is_null()
        {
            // SAFETY: as above.
            let (text, next) = unsafe { (CStr::from_ptr(*variable).to_bytes(), at.add(1)) };
            if let Some(ours) = text.strip_prefix(b"HEAPWRIGHT_")
                && let Some(sign) = ours.iter().position(|&byte| byte == b'=')
            {
                settings.set(&ours[..sign], &ours[sign + 1..]);
            }
            at = next;
        }
        if settings.signal.is_some() && settings.map.is_none() && !settings.check {
            settings.stats = true;
        }
        settings
    }

    /// Whether anything is to be done at exit or at a signal.
    pub(crate) fn prints(&self) -> bool {
        self.stats || self.map.is_some() || self.check
    }

    #[cold]
    #[inline(never)]
    fn set(&mut self, name: &[u8], value: &[u8]) {
        let accepted = match name {
            b"STATS" => switch(value).map(|on| self.stats = on),
            b"CHECK" => switch(value).map(|on| self.check = on),
            b"MAP" => map(value).map(|map| self.map = map),
            b"SIGNAL" => signal(value).map(|signal| self.signal = signal),
            b"OUTPUT" => Path::absolute(value).map(|path| self.output = path),
            b"ON_MISUSE" => on_misuse(value).map(|choice| self.on_misuse = choice),
            // Others of the project's have names of this kind too.
            _ => Ok(()),
        };
        if let Err(expected) = accepted {
            let mut out = Out::to(libc::STDERR_FILENO);
            for part in [b"heapwright: HEAPWRIGHT_", name, b" is \"", value, b"\"; it may be "] {
                out.bytes(part);
            }
            out.bytes(expected.as_bytes());
            out.bytes(b"\n");
        }
    }
}

// A variable that is empty is as good as none. The error of each is what it could be.

fn switch(value: &[u8]) -> Result<bool, &'static str> {
    match value {
        b"1" => Ok(true),
        b"0" | b"" => Ok(false),
        _ => Err("1 or 0"),
    }
}

fn map(value: &[u8]) -> Result<Option<Map>, &'static str> {
    match value {
        b"text" => Ok(Some(Map::Text)),
        b"json" => Ok(Some(Map::Json)),
        b"" => Ok(None),
        _ => Err("text or json"),
    }
}

fn on_misuse(value: &[u8]) -> Result<OnMisuse, &'static str> {
    match value {
        b"abort" | b"" => Ok(OnMisuse::Abort),
        b"report" => Ok(OnMisuse::Report),
        b"count" => Ok(OnMisuse::Count),
        _ => Err("abort, report or count"),
    }
}

/// A signal by its number or its name, with or without `SIG`; none that cannot be caught, or that says that the
/// program is broken.
fn signal(value: &[u8]) -> Result<Option<c_int>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    let name = value.strip_prefix(b"SIG").unwrap_or(value);
    let number = core::str::from_utf8(value).ok().and_then(|text| text.parse::<c_int>().ok());
    let known = SIGNALS.iter().find(|&&(known, its)| known == name || number == Some(its));
    let real_time = || number.filter(|number| (34..=64).contains(number));
    match known.map(|&(_, number)| number).or_else(real_time) {
        Some(signal) => Ok(Some(signal)),
        None => Err(
            "USR1, USR2, HUP, INT, QUIT, TERM, ALRM, URG, WINCH, or the number of one of these, \
                     or from 34 to 64",
        ),
    }
}

impl Path {
    const MOST: usize = 4096;
    const EXPECTED: &'static str = "a path of less than 4096 bytes";

    /// An empty path in pages of its own. Few processes are given one, and to all others room for it among the settings
    /// would cost two pages at their start.
    fn room() -> Option<&'static mut Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping replaces no other. It stays, nobody else knows it, and all zeroes are an empty path.
        unsafe {
            let room = libc::mmap(ptr::null_mut(), size_of::<Self>(), protection, kind, -1, 0);
            if room == libc::MAP_FAILED { None } else { room.cast::<Self>().as_mut() }
        }
    }

    /// A program may change its directory before it ends, so the path is completed now.
    #[cold]
    fn absolute(value: &[u8]) -> Result<Option<&'static Self>, &'static str> {
        if value.is_empty() {
            return Ok(None);
        }
        let path = Self::room().ok_or(Self::EXPECTED)?;
        if value[0] != b'/' {
            // SAFETY: the kernel writes at most that many bytes.
            let directory = unsafe { libc::getcwd(path.text.as_mut_ptr().cast(), Self::MOST) };
            if !directory.is_null() {
                path.length = path.text.iter().position(|&byte| byte == 0).unwrap_or(0);
                path.push(b"/").ok_or(Self::EXPECTED)?;
            }
        }
        path.push(value).ok_or(Self::EXPECTED)?;
        Ok(Some(path))
    }

    fn push(&mut self, part: &[u8]) -> Option<()> {
        let end = self.length + part.len();
        // The last byte stays zero.
        if end >= Self::MOST {
            return None;
        }
        self.text[self.length..end].copy_from_slice(part);
        self.length = end;
        Some(())
    }

    /// Opens the file for appending, with the process's number in place of `%p`.
    pub(crate) fn open(&self, process: c_int) -> c_int {
        let mut digits = [0; 12];
        let number = decimal(process.unsigned_abs(), &mut digits);
        let mut path = Self { text: [0; Self::MOST], length: 0 };
        let mut rest = &self.text[..self.length];
        while let Some((&first, behind)) = rest.split_first() {
            let (part, next) = match rest.strip_prefix(b"%p") {
                Some(next) => (number, next),
                None => (&[first][..], behind),
            };
            if path.push(part).is_none() {
                return -1;
            }
            rest = next;
        }
        let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
        // SAFETY: the text ends with a zero.
        unsafe { libc::open(path.text.as_ptr().cast(), flags, 0o666) }
    }
}

/// The digits of a number, at the end of a buffer that has room for them.
fn decimal(mut number: u32, digits: &mut [u8; 12]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}
