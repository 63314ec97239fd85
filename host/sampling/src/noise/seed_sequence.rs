//! NumPy's `SeedSequence` (after M. O'Neill's `randutils`): many independent seeds from one.

/// Words of the pool; torchsde's Brownian tree uses 24.
const POOL: usize = 24;
const SHIFT: u32 = 16;

/// `np.random.SeedSequence(entropy, spawn_key, pool_size=24).generate_state(1)[0]`.
pub(super) fn first_state(entropy: u64, spawn_key: &[u64]) -> u64 {
    let mut words = uint32_words(entropy);
    if !spawn_key.is_empty() {
        words.resize(words.len().max(POOL), 0);
        words.extend(spawn_key.iter().flat_map(|key| uint32_words(*key)));
    }
    let mut hash = Hash { constant: 0x43b0_d7e5, multiplier: 0x931e_8875 };
    let mut pool = [0u32; POOL];
    for (i, slot) in pool.iter_mut().enumerate() {
        *slot = hash.apply(words.get(i).copied().unwrap_or(0));
    }
    for source in 0..POOL {
        for target in 0..POOL {
            if source != target {
                pool[target] = mix(pool[target], hash.apply(pool[source]));
            }
        }
    }
    for word in words.iter().skip(POOL) {
        for slot in &mut pool {
            *slot = mix(*slot, hash.apply(*word));
        }
    }
    u64::from(Hash { constant: 0x8b51_f9dd, multiplier: 0x58f3_8ded }.apply(pool[0]))
}

struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn apply(&mut self, value: u32) -> u32 {
        let mixed = value ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let mixed = mixed.wrapping_mul(self.constant);
        mixed ^ (mixed >> SHIFT)
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = 0xca01_f9ddu32.wrapping_mul(x).wrapping_sub(0x4973_f715u32.wrapping_mul(y));
    mixed ^ (mixed >> SHIFT)
}

/// An integer as 32-bit words, low first; at least one.
fn uint32_words(value: u64) -> Vec<u32> {
    let (low, high) = (value as u32, (value >> 32) as u32);
    if high == 0 { vec![low] } else { vec![low, high] }
}
