// SPDX-License-Identifier: Apache-2.0
//! Changes JSON by its values: bytes changed at random are hardly ever JSON again, and the reader's errors are all that
//! would be reached.

use serde_json::{Value, json};

/// One change in four is of bytes, so that the reader is tried too.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = Random(u64::from(seed) | 1 << 40);
    let parsed = data.get(..size).and_then(|text| serde_json::from_slice::<Value>(text).ok());
    let Some(mut value) = parsed.filter(|_| random.below(4) > 0) else {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    };
    for _ in 0..=random.below(3) {
        let count = nodes(&value);
        let donor = node(&mut value, &mut random.below(count)).map(|donor| donor.clone()).unwrap_or_default();
        if let Some(chosen) = node(&mut value, &mut random.below(count)) {
            change(chosen, donor, &mut random);
        }
    }
    let text = value.to_string();
    match data.get_mut(..text.len()) {
        Some(space) if text.len() <= max_size => {
            space.copy_from_slice(text.as_bytes());
            text.len()
        }
        _ => size,
    }
}

fn change(value: &mut Value, donor: Value, random: &mut Random) {
    match (value, random.below(4)) {
        (Value::Object(map), 0 | 1) if !map.is_empty() => {
            let name = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            let member = map.remove(&name).unwrap_or_default();
            if random.below(2) == 0 {
                map.insert(word(random, &name), member);
            }
        }
        (Value::Object(map), 2) => drop(map.insert(word(random, "name"), donor)),
        (Value::Array(list), 0) if !list.is_empty() => drop(list.remove(random.below(list.len()))),
        (Value::Array(list), 1 | 2) => list.insert(random.below(list.len() + 1), donor),
        (Value::String(text), 0..3) => *text = word(random, text),
        (value, 0 | 1) => *value = donor,
        (value, _) => {
            let plain = [
                json!(null), json!([]), json!({}), json!(""), json!(true), json!(false), json!(0), json!(-1), json!(1),
                json!(4095), json!(65_536), json!(i32::MAX), json!(u32::MAX), json!(1_u64 << 32), json!(i64::MIN),
                json!(i64::MAX), json!(u64::MAX), json!(1.5), json!(1e300),
            ];
            *value = plain.into_iter().nth(random.below(19)).unwrap_or_default();
        }
    }
}

/// The text with a part of it doubled, cut, or replaced.
fn word(random: &mut Random, text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = random.below(characters.len() + 1);
    let (before, after) = characters.split_at(at);
    let skipped = random.below(3).min(after.len());
    let insertions =
        ["", "\0", "/", "..", "-", ",", "=", ":", "~", "%", "0", "9999999999", "\u{fffd}", "proc", "cgroup", "\n", " ", "r", "no"];
    let between = insertions[random.below(insertions.len())];
    before.iter().collect::<String>() + between + &after[skipped..].iter().collect::<String>()
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}

/// The value number `index` in depth-first order.
fn node<'a>(value: &'a mut Value, index: &mut usize) -> Option<&'a mut Value> {
    if *index == 0 {
        return Some(value);
    }
    *index -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|value| node(value, index)),
        Value::Object(map) => map.values_mut().find_map(|value| node(value, index)),
        _ => None,
    }
}

struct Random(u64);

impl Random {
    /// From 0 to `limit - 1` (xorshift64*).
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or(0) % limit.max(1)
    }
}
