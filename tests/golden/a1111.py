"""What A1111 makes of a prompt, written from its documented behaviour: emphasis, scheduling, chunks of 75 tokens."""

import re

NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*$")
WEIGHT = re.compile(r":\s*([+-]?[.\d]+)\s*\)")


def emphasis(prompt):
    """[text, weight] pairs. `(a)` × 1.1, `[a]` ÷ 1.1, `(a:1.3)` × 1.3, `\\(` is a bracket; BREAK is ["BREAK", -1].

    A bracket that nothing closes counts to the end; one that closes nothing is text.
    """
    parts, round_open, square_open = [], [], []

    def scale(start, factor):
        for part in parts[start:]:
            part[1] *= factor

    i = 0
    while i < len(prompt):
        c = prompt[i]
        weight = WEIGHT.match(prompt, i)
        if c == "\\":
            # Only these can be escaped; the backslash itself is text before anything else.
            if prompt[i + 1 : i + 2] in ("(", ")", "[", "]", "\\"):
                parts.append([prompt[i + 1], 1.0])
                i += 2
            else:
                parts.append(["", 1.0])
                i += 1
            continue
        if c == "(":
            round_open.append(len(parts))
        elif c == "[":
            square_open.append(len(parts))
        elif weight and round_open:
            scale(round_open.pop(), float(weight.group(1)))
            i = weight.end()
            continue
        elif c == ")" and round_open:
            scale(round_open.pop(), 1.1)
        elif c == "]" and square_open:
            scale(square_open.pop(), 1 / 1.1)
        else:
            end = i + 1
            if weight:
                # A weight that belongs to no bracket is text.
                end = weight.end()
            elif c not in "()[]:":
                while end < len(prompt) and prompt[end] not in "\\()[]:":
                    end += 1
            for n, text in enumerate(re.split(r"\s*\bBREAK\b\s*", prompt[i:end])):
                if n:
                    parts.append(["BREAK", -1])
                parts.append([text, 1.0])
            i = end
            continue
        i += 1
    for start in round_open:
        scale(start, 1.1)
    for start in square_open:
        scale(start, 1 / 1.1)
    merged = []
    for text, weight in parts or [["", 1.0]]:
        if merged and merged[-1][1] == weight:
            merged[-1][0] += text
        else:
            merged.append([text, weight])
    return merged


def _closing(prompt, start):
    """Index of the bracket that closes the square one at `start`, and the top level `:` and `|` inside."""
    stack, marks, i = [], [], start
    while i < len(prompt):
        c = prompt[i]
        if c == "\\":
            i += 2
            continue
        if c in "([":
            stack.append(c)
        elif c in ")]":
            if stack.pop() != {")": "(", "]": "["}[c]:
                return None, []
            if not stack:
                return i, marks
        elif c in ":|" and len(stack) == 1:
            marks.append(i)
        i += 1
    return None, []


def _at_step(prompt, step, steps, seen):
    """The prompt of one step (counted from 1); adds to `seen` the steps after which something changes."""
    out, i = "", 0
    while i < len(prompt):
        if prompt[i] == "\\":
            out, i = out + prompt[i : i + 2], i + 2
            continue
        end, marks = _closing(prompt, i) if prompt[i] == "[" else (None, [])
        if end is None:
            out, i = out + prompt[i], i + 1
            continue
        edges = [i, *marks, end]
        fields = [prompt[a + 1 : b] for a, b in zip(edges, edges[1:])]
        kinds = {prompt[m] for m in marks}
        number = NUMBER.match(fields[-1])
        if kinds == {"|"}:
            seen.update(range(1, steps + 1))
            out += _at_step(fields[(step - 1) % len(fields)], step, steps, seen)
            # What the other alternatives change counts as well.
            for field in fields:
                _at_step(field, step, steps, seen)
        elif kinds == {":"} and len(fields) in (2, 3) and number:
            value = number.group(1)
            when = min(steps, int(float(value) * steps if "." in value else float(value)))
            if when >= 1:
                seen.add(when)
            before = fields[0] if len(fields) == 3 else ""
            after = fields[-2]
            for field in (before, after):
                _at_step(field, step, steps, seen)
            out += _at_step(before if step <= when else after, step, steps, seen)
        else:
            out += "[" + _at_step(prompt[i + 1 : end], step, steps, seen) + "]"
        i = end + 1
    return out


def schedule(prompt, steps):
    """[last step, prompt] pairs for `steps` steps: `[a:b:0.5]`, `[a:3]`, `[a::3]`, `[a|b]`."""
    seen = {steps}
    _at_step(prompt, 1, steps, seen)
    return [[step, _at_step(prompt, step, steps, set())] for step in sorted(seen)]


def chunks(prompt, ids_of, start, end, pad, comma, backtrack=20):
    """Chunks of 77 ids and weights. A word list that would be torn at a chunk's end moves into the next
    chunk from its last comma on, if that is at most `backtrack` tokens back."""
    done, tokens, last_comma = [], [], -1

    def close():
        nonlocal tokens, last_comma
        fill = 75 - len(tokens)
        done.append(
            dict(
                ids=[start, *(t for t, _ in tokens), end, *[pad] * fill],
                weights=[1.0, *(w for _, w in tokens), *[1.0] * (fill + 1)],
            )
        )
        tokens, last_comma = [], -1

    for text, weight in emphasis(prompt):
        if (text, weight) == ("BREAK", -1):
            close()
            continue
        for token in ids_of(text):
            if token == comma:
                last_comma = len(tokens)
            elif len(tokens) == 75 and last_comma != -1 and 75 - last_comma <= backtrack:
                moved = tokens[last_comma + 1 :]
                tokens = tokens[: last_comma + 1]
                close()
                tokens = moved
            if len(tokens) == 75:
                close()
            tokens.append((token, weight))
    if tokens or not done:
        close()
    return done


# Results that A1111 documents in its own source.
KNOWN_EMPHASIS = {
    "normal text": [["normal text", 1.0]],
    "an (important) word": [["an ", 1.0], ["important", 1.1], [" word", 1.0]],
    "(unbalanced": [["unbalanced", 1.1]],
    "\\(literal\\]": [["(literal]", 1.0]],
    "(unnecessary)(parens)": [["unnecessaryparens", 1.1]],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ["a ", 1.0],
        ["house", 1.5730000000000004],
        [" ", 1.1],
        ["on", 1.0],
        [" a ", 1.1],
        ["hill", 0.55],
        [", sun, ", 1.1],
        ["sky", 1.4641000000000006],
        [".", 1.1],
    ],
}

KNOWN_SCHEDULES = {
    "test": [[10, "test"]],
    "a [b:3]": [[3, "a "], [10, "a b"]],
    "a [b: 3]": [[3, "a "], [10, "a b"]],
    "a [[[b]]:2]": [[2, "a "], [10, "a [[b]]"]],
    "[(a:2):3]": [[3, ""], [10, "(a:2)"]],
    "a [b : c : 1] d": [[1, "a b  d"], [10, "a  c  d"]],
    "a[b:[c:d:2]:1]e": [[1, "abe"], [2, "ace"], [10, "ade"]],
    "a [unbalanced": [[10, "a [unbalanced"]],
    "a [b:.5] c": [[5, "a  c"], [10, "a b c"]],
    "((a][:b:c [d:3]": [[3, "((a][:b:c "], [10, "((a][:b:c d"]],
    "[fe|]male": [[n, "female" if n % 2 else "male"] for n in range(1, 11)],
    "[fe|||]male": [[n, "female" if n % 4 == 1 else "male"] for n in range(1, 11)],
}
