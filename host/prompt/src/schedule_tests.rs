//! Tests of prompt scheduling; the first table is the web UI's own.

use super::*;

fn show(prompt: &str, steps: u32, options: &Options) -> String {
    match schedule(prompt, steps, options) {
        Err(error) => error.code().into(),
        Ok(schedule) => {
            let mut next = 0;
            let parts = schedule.segments.iter().map(|segment| {
                assert_eq!(segment.from_step, std::mem::replace(&mut next, segment.to_step), "gap in {prompt:?}");
                assert_eq!(schedule.text_at(segment.from_step), segment.text);
                assert_eq!(schedule.text_at(segment.to_step - 1), segment.text);
                format!("{}:{}", segment.to_step, schedule.texts[segment.text].source)
            });
            let shown = parts.collect::<Vec<_>>().join(" | ");
            assert_eq!(next, steps.max(1));
            shown
        }
    }
}

#[track_caller]
fn check(prompt: &str, expected: &str) {
    assert_eq!(show(prompt, 10, &Options::default()), expected, "for {prompt:?}");
}

#[test]
fn the_web_uis_own_table() {
    check("test", "10:test");
    check("a [b:3]", "3:a  | 10:a b");
    check("a [b: 3]", "3:a  | 10:a b");
    check("a [[[b]]:2]", "2:a  | 10:a [[b]]");
    check("[(a:2):3]", "3: | 10:(a:2)");
    check("a [b : c : 1] d", "1:a b  d | 10:a  c  d");
    check("a[b:[c:d:2]:1]e", "1:abe | 2:ace | 10:ade");
    check("a [unbalanced", "10:a [unbalanced");
    check("a [b:.5] c", "5:a  c | 10:a b c");
    check("((a][:b:c [d:3]", "3:((a][:b:c  | 10:((a][:b:c d");
    check("[a|(b:1.1)]", "1:a | 2:(b:1.1) | 3:a | 4:(b:1.1) | 5:a | 6:(b:1.1) | 7:a | 8:(b:1.1) | 9:a | 10:(b:1.1)");
    check("[fe|||]male", "1:female | 4:male | 5:female | 8:male | 9:female | 10:male");
}

#[test]
fn numbers() {
    check("[a:b:0.5]", "5:a | 10:b");
    check("[a:b:0.0]", "10:b");
    check("[a:b:0]", "10:b");
    check("[a:b:-3]", "10:b");
    check("[a:b:1.0]", "10:a");
    check("[a:b:1]", "1:a | 10:b");
    check("[a:b:99]", "10:a");
    check("[a:b:0.25]", "2:a | 10:b");
    check("[a:b:1e1]", "10:a");
    check("[a:b:x]", "10:[a:b:x]");
    check("[a:b:inf]", "10:[a:b:inf]");
    check("[a:b:]", "10:[a:b:]");
}

#[test]
fn what_is_not_scheduling_stays_as_it_is() {
    check("a [b] (c:1.2)", "10:a [b] (c:1.2)");
    check("[a:b:c:3]", "10:[a:b:c:3]");
    check("[a|b:3]", "10:[a|b:3]");
    check("one|two [b:3]", "3:one|two  | 10:one|two b");
    check("\\[a:b:3\\]", "10:\\[a:b:3\\]");
    check("[a\\]:b:3]", "3:a\\] | 10:b");
    check("a AND b", "10:a AND b");
    check(":) :( [", "10::) :( [");
    check("", "10:");
}

#[test]
fn nesting() {
    check("[a::3][b:6]", "3:a | 6: | 10:b");
    check("([x:y:4]:1.3)", "4:(x:1.3) | 10:(y:1.3)");
    check("[a|[b:c:2]]", "1:a | 2:b | 3:a | 4:c | 5:a | 6:c | 7:a | 8:c | 9:a | 10:c");
    check("[[a|b]:z:2]", "1:a | 2:b | 10:z");
    check("[日:本:5]é", "5:日é | 10:本é");
}

#[test]
fn second_pass_counts_on() {
    let options = Options { pass: Pass::Second { first_steps: 10 }, ..Options::default() };
    let second = |prompt| show(prompt, 10, &options);
    assert_eq!(second("a [b:.5] c"), "10:a b c");
    assert_eq!(second("a [b:1.5] c"), "5:a  c | 10:a b c");
    assert_eq!(second("[a:b:13]"), "3:a | 10:b");
}

#[test]
fn literal_syntax_reads_nothing() {
    let options = Options { syntax: Syntax::Literal, ..Options::default() };
    let literal = schedule("[a|b] (c:2) BREAK", 4, &options).unwrap();
    assert_eq!(literal.texts, [WeightedText::literal("[a|b] (c:2) BREAK")]);
    assert_eq!(literal.segments, [Segment { from_step: 0, to_step: 4, text: 0 }]);
}

#[test]
fn bounds() {
    let options = Options { max_bytes: 10, max_texts: 3, ..Options::default() };
    assert_eq!(show("12345678901", 5, &options), "prompt_too_long");
    assert_eq!(show("[a|b|c]", 6, &options), "1:a | 2:b | 3:c | 4:a | 5:b | 6:c");
    assert_eq!(show("[a|b|c|d]", 6, &options), "prompt_too_many_texts");
    assert_eq!(show("[a|b]", 0, &options), "1:a");
    assert_eq!(show(&"[".repeat(MAX_NESTING + 1), 5, &Options::default()), "prompt_nesting");
    let many = "[a:b:3][c|d]".repeat(2_500);
    assert_eq!(schedule(&many, 1_000, &Options::default()).unwrap().texts.len(), 4);
}

/// Any string must give a schedule or an error, never a panic.
#[test]
fn arbitrary_strings() {
    let alphabet = ['(', ')', '[', ']', ':', '|', '\\', '.', '5', ' ', 'a', 'é', '日', 'B', '\u{0}', '\n'];
    let mut state = 1u64;
    for _ in 0..20_000 {
        let mut prompt = String::new();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        for position in 0..(state >> 58) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(position);
            prompt.push(alphabet[(state >> 40) as usize % alphabet.len()]);
        }
        show(&prompt, 7, &Options::default());
    }
}
