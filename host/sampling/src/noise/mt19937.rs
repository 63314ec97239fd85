//! The Mersenne Twister (Matsumoto and Nishimura 1998), seeded as PyTorch's CPU generator seeds it.

const N: usize = 624;
const M: usize = 397;

/// State of MT19937: the stream of 32-bit words behind `torch.Generator("cpu")`.
#[derive(Clone)]
pub(crate) struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// PyTorch takes 64-bit seeds but gives the twister the low 32 bits only.
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = [0u32; N];
        let mut previous = (seed & 0xffff_ffff) as u32;
        state[0] = previous;
        for (i, word) in state.iter_mut().enumerate().skip(1) {
            previous = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
            *word = previous;
        }
        Self { state, next: N }
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let matrix = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ matrix;
        }
        self.next = 0;
    }

    /// The next tempered word.
    pub(crate) fn next_u32(&mut self) -> u32 {
        if self.next >= N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Two words as one, the first one high: `CPUGeneratorImpl::random64`.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        (high << 32) | u64::from(self.next_u32())
    }
}
