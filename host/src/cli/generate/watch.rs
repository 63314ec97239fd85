//! What a person sees while a picture is made: a bar with the time of a step, previews where the terminal shows them.

use crate::cli::screen::Screen;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Follows a job's events on the terminal. Nothing is shown where standard error is none.
pub(super) struct Watch<'a> {
    bar: ProgressBar,
    screen: Option<&'a Screen>,
    since: Instant,
    /// The first step that was heard of, and when: what lies before it is no step.
    first: Option<(u64, Instant)>,
    step: Option<Duration>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(screen: Option<&'a Screen>) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        Watch { bar, screen, since: Instant::now(), first: None, step: None }
    }

    /// Says something beside the bar.
    pub(super) fn say(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.bar.tick();
    }

    /// Shows an event.
    pub(super) fn event(&mut self, event: &Value) {
        match event["event"].as_str() {
            Some("queued") => match event["position"].as_u64() {
                Some(before) if before > 0 => self.say(&format!("waiting, {before} before it")),
                _ => self.say("waiting"),
            },
            Some("started") => self.say("starting"),
            Some("narration") => self.say(event["human"].as_str().unwrap_or_default()),
            Some("progress") => {
                self.progress(event["step"].as_u64().unwrap_or(0), event["total"].as_u64().unwrap_or(0));
            }
            Some("preview") => {
                let Some(screen) = self.screen else { return };
                let bytes = event["image_base64"].as_str().and_then(|t| STANDARD.decode(t).ok());
                self.bar.suspend(|| bytes.map(|b| screen.show(&b)));
            }
            _ => {}
        }
    }

    fn progress(&mut self, step: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(step);
        let now = Instant::now();
        let (first, began) = *self.first.get_or_insert((step, now));
        let Some(steps) = step.checked_sub(first).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0) else {
            return;
        };
        let each = (now - began) / steps;
        self.step = Some(each);
        let left = each * u32::try_from(total.saturating_sub(step)).unwrap_or(0);
        self.say(&format!("{} a step, {} left", time(each), time(left)));
    }

    /// Takes the bar away and sums up; empty where no step was heard of.
    pub(super) fn end(self) -> String {
        self.bar.finish_and_clear();
        match self.step {
            Some(each) => {
                format!("{} steps of {}, {} in all", self.bar.position(), time(each), time(self.since.elapsed()))
            }
            None => String::new(),
        }
    }
}

/// A duration for people.
fn time(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.1} s"),
        s => format!("{:.0} min {:.0} s", (s / 60.0).floor(), s % 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        let shown: Vec<String> =
            [0.000_05, 0.0123, 1.26, 125.0].iter().map(|s| time(Duration::from_secs_f64(*s))).collect();
        assert_eq!(shown, ["50 µs", "12 ms", "1.3 s", "2 min 5 s"]);
    }
}
