//! Prompt scheduling: `[a:b:0.5]`, `[a:0.5]`, `[a::0.5]` and alternation `[a|b]`, resolved for a number of steps.
//!
//! Grammar and meaning are AUTOMATIC1111's: a number with a point is a fraction of the steps, one without is a step;
//! `[a:b:n]` reads `a` for the first n steps and `b` after them; `[a|b|c]` changes with every step. Both nest.

use crate::{MAX_NESTING, PromptError, WeightedText};
use std::collections::HashMap;

/// Which of the two passes of a picture with hires fix the steps belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pass {
    /// The only pass, or the first one.
    #[default]
    First,
    /// The second pass after `first_steps` steps: whole numbers go on counting from there, fractions from 1.0 to 2.0.
    Second {
        /// Steps of the first pass.
        first_steps: u32,
    },
}

/// How much of a prompt is syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Syntax {
    /// Scheduling, emphasis and `BREAK`.
    #[default]
    Full,
    /// Every character is text, as in diffusers.
    Literal,
}

/// Choices and limits of [`schedule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How much of the prompt is syntax.
    pub syntax: Syntax,
    /// Which pass the steps belong to.
    pub pass: Pass,
    /// The most bytes of a prompt.
    pub max_bytes: usize,
    /// The most different texts that one prompt may make: each costs an encoder call.
    pub max_texts: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { syntax: Syntax::Full, pass: Pass::First, max_bytes: 32 * 1024, max_texts: 64 }
    }
}

/// A prompt resolved for a number of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The different texts, in the order of their first use.
    pub texts: Vec<WeightedText>,
    /// Which text is used when: in order, without gaps, from step 0 to the last.
    pub segments: Vec<Segment>,
}

/// Steps that share a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The first step, counted from 0.
    pub from_step: u32,
    /// The step after the last one.
    pub to_step: u32,
    /// Index into [`Schedule::texts`].
    pub text: usize,
}

impl Schedule {
    /// The index of the text for a step counted from 0; steps past the end keep the last text.
    pub fn text_at(&self, step: u32) -> usize {
        let later = self.segments.partition_point(|segment| segment.to_step <= step);
        self.segments.get(later).or(self.segments.last()).map_or(0, |segment| segment.text)
    }
}

/// Resolves a prompt for `steps` steps (0 counts as 1). Errors: `TooLong`, `Nesting`, `Weight`, `TooManyTexts`.
pub fn schedule(prompt: &str, steps: u32, options: &Options) -> Result<Schedule, PromptError> {
    if prompt.len() > options.max_bytes {
        return Err(PromptError::TooLong { bytes: prompt.len(), limit: options.max_bytes });
    }
    let steps = steps.max(1);
    if options.syntax == Syntax::Literal {
        let segments = vec![Segment { from_step: 0, to_step: steps, text: 0 }];
        return Ok(Schedule { texts: vec![WeightedText::literal(prompt)], segments });
    }
    let nodes = Tree { source: prompt, pairs: match_brackets(prompt)? }.nodes(0, prompt.len());
    let mut ends = vec![steps];
    if collect_ends(&nodes, steps, options.pass, &mut ends) {
        ends = (1..=steps).collect();
    }
    ends.sort_unstable();
    ends.dedup();

    let mut known: HashMap<String, usize> = HashMap::new();
    let mut schedule = Schedule { texts: Vec::new(), segments: Vec::new() };
    let mut from_step = 0;
    for to_step in ends {
        let mut text = String::new();
        write_at(&nodes, to_step, steps, options.pass, &mut text);
        let index = match known.get(&text) {
            Some(&index) => index,
            None if schedule.texts.len() == options.max_texts => {
                return Err(PromptError::TooManyTexts { limit: options.max_texts, steps });
            }
            None => {
                schedule.texts.push(WeightedText::parse(text.clone())?);
                known.insert(text, schedule.texts.len() - 1);
                schedule.texts.len() - 1
            }
        };
        match schedule.segments.last_mut() {
            Some(last) if last.text == index => last.to_step = to_step,
            _ => schedule.segments.push(Segment { from_step, to_step, text: index }),
        }
        from_step = to_step;
    }
    Ok(schedule)
}

enum Node<'a> {
    Text(&'a str),
    Scheduled { before: Vec<Node<'a>>, after: Vec<Node<'a>>, when: When },
    Alternate(Vec<Vec<Node<'a>>>),
}

#[derive(Clone, Copy)]
struct When {
    value: f64,
    fraction: bool,
}

impl When {
    /// A number between blanks: `3`, ` .5`, `1e1`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
        let value = text.parse().ok().filter(|value: &f64| numeric && value.is_finite())?;
        Some(Self { value, fraction: text.contains('.') })
    }

    /// The last step, counted from 1, that still reads the first text; 0 = none.
    fn last_step(self, steps: u32, pass: Pass) -> u32 {
        let (whole, fraction) = match pass {
            Pass::First => (0.0, 0.0),
            Pass::Second { first_steps } => (f64::from(first_steps), 1.0),
        };
        let step =
            if self.fraction { (self.value - fraction) * f64::from(steps) } else { (self.value - whole).trunc() };
        // The cast saturates and cuts towards zero, as Python's int() does.
        (step as u32).min(steps)
    }
}

/// For every opening bracket that has a partner, where the partner stands.
fn match_brackets(source: &str) -> Result<HashMap<usize, usize>, PromptError> {
    let mut pairs = HashMap::new();
    let mut open: Vec<(usize, u8)> = Vec::new();
    let mut escaped = false;
    for (at, byte) in source.bytes().enumerate() {
        if escaped {
            escaped = false;
            continue;
        }
        match byte {
            b'\\' => escaped = true,
            b'(' | b'[' => {
                open.push((at, byte));
                if open.len() > MAX_NESTING {
                    return Err(PromptError::Nesting { limit: MAX_NESTING });
                }
            }
            b')' | b']' => match open.pop() {
                Some((start, b'(')) if byte == b')' => drop(pairs.insert(start, at)),
                Some((start, b'[')) if byte == b']' => drop(pairs.insert(start, at)),
                // A wrong partner: no bracket that is open can hold an unbalanced one, so all of them are text.
                _ => open.clear(),
            },
            _ => {}
        }
    }
    Ok(pairs)
}

struct Tree<'a> {
    source: &'a str,
    pairs: HashMap<usize, usize>,
}

impl<'a> Tree<'a> {
    /// The nodes of `source[start..end]`. Depth is bounded by [`MAX_NESTING`].
    fn nodes(&self, start: usize, end: usize) -> Vec<Node<'a>> {
        let bytes = self.source.as_bytes();
        let mut nodes = Vec::new();
        let mut text_from = start;
        let mut at = start;
        while at < end {
            match bytes[at] {
                b'\\' => at += 2,
                b'[' => {
                    let special = self.pairs.get(&at).and_then(|&close| Some((self.special(at, close)?, close)));
                    if let Some((node, close)) = special {
                        nodes.push(Node::Text(&self.source[text_from..at]));
                        nodes.push(node);
                        text_from = close + 1;
                        at = close;
                    }
                    at += 1;
                }
                _ => at += 1,
            }
        }
        nodes.push(Node::Text(&self.source[text_from..end]));
        nodes
    }

    /// What the brackets at `open` and `close` mean; nothing where they are emphasis or text.
    fn special(&self, open: usize, close: usize) -> Option<Node<'a>> {
        let parts = self.parts(open + 1, close);
        let nodes = |part: &(usize, usize, u8)| self.nodes(part.0, part.1);
        let is = |separator: u8| parts.len() > 1 && parts[1..].iter().all(|part| part.2 == separator);
        if is(b'|') {
            return Some(Node::Alternate(parts.iter().map(nodes).collect()));
        }
        if !is(b':') || parts.len() > 3 {
            return None;
        }
        let last = parts.last()?;
        let when = When::parse(&self.source[last.0..last.1])?;
        let before = if parts.len() == 3 { nodes(&parts[0]) } else { Vec::new() };
        Some(Node::Scheduled { before, after: nodes(&parts[parts.len() - 2]), when })
    }

    /// Splits at `:` and `|` outside of inner brackets: (start, end, the separator before it).
    fn parts(&self, start: usize, end: usize) -> Vec<(usize, usize, u8)> {
        let bytes = self.source.as_bytes();
        let (mut parts, mut from, mut separator, mut at) = (Vec::new(), start, 0, start);
        while at < end {
            match bytes[at] {
                b'\\' => at += 1,
                b'(' | b'[' => at = self.pairs.get(&at).copied().unwrap_or(at),
                byte @ (b':' | b'|') => {
                    parts.push((from, at, separator));
                    (from, separator) = (at + 1, byte);
                }
                _ => {}
            }
            at += 1;
        }
        parts.push((from, end, separator));
        parts
    }
}

/// Collects the last steps of scheduled texts; true where an alternation changes the text with every step anyway.
fn collect_ends(nodes: &[Node<'_>], steps: u32, pass: Pass, ends: &mut Vec<u32>) -> bool {
    nodes.iter().any(|node| match node {
        Node::Text(_) => false,
        Node::Alternate(_) => true,
        Node::Scheduled { before, after, when } => {
            ends.extend(Some(when.last_step(steps, pass)).filter(|&step| step > 0));
            collect_ends(before, steps, pass, ends) || collect_ends(after, steps, pass, ends)
        }
    })
}

/// Writes the text of a step counted from 1.
fn write_at(nodes: &[Node<'_>], step: u32, steps: u32, pass: Pass, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Scheduled { before, after, when } => {
                let chosen = if step <= when.last_step(steps, pass) { before } else { after };
                write_at(chosen, step, steps, pass, out);
            }
            Node::Alternate(choices) => {
                let chosen = (step as usize - 1) % choices.len();
                write_at(&choices[chosen], step, steps, pass, out);
            }
        }
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
