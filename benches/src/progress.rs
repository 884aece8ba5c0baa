//! A bar with the time left, or, where nobody watches a terminal, a line now and then.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Progress through a number of steps that may still change.
pub struct Progress {
    bar: ProgressBar,
    /// When the last line was written, where there is no terminal.
    line: Option<Mutex<Instant>>,
}

/// How often a line is written where there is no bar.
const LINES: Duration = Duration::from_secs(15);

impl Progress {
    /// At the first of `steps`.
    #[must_use]
    pub fn new(steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        let template = "{bar:30} {pos}/{len}  {msg}  {elapsed} gone, about {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        let line = (!stderr().is_terminal()).then(|| Mutex::new(Instant::now()));
        Self { bar, line }
    }

    /// There are more steps than was known.
    pub fn expect(&self, more: u64) {
        self.bar.inc_length(more);
    }

    /// Some steps are not needed.
    pub fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }

    /// Does one step.
    pub fn step<T>(&self, what: &str, step: impl FnOnce() -> T) -> T {
        if self.bar.message() != what {
            self.bar.set_message(what.to_owned());
        }
        let result = step();
        self.bar.inc(1);
        if let Some(last) = &self.line
            && let Ok(mut last) = last.try_lock()
            && last.elapsed() >= LINES
        {
            *last = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            // Further rounds are not among these steps before they begin.
            let left = HumanDuration(self.bar.eta());
            eprintln!("{what}: {done} of {all} samples, about {left} left for these");
        }
        result
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
