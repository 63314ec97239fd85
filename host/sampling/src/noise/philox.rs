//! `torch.randn` on CUDA: cuRAND's Philox-4x32-10, as A1111's "NV" source and stable-diffusion.cpp make it on the CPU.
//!
//! J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). On the card element `i` belongs to thread
//! `i` and takes the first of the four words' normals, for tensors of up to the number of resident threads (some
//! 200,000: every latent tensor in practice). The arithmetic here is that of A1111's `rng_philox.py`: double
//! precision, rounded once; a card's `logf` and `__sincosf` differ from it in the last bits.

/// A CUDA-like generator: `torch.Generator("cuda").manual_seed(seed)`.
#[derive(Clone)]
pub struct Philox {
    seed: u64,
    /// Calls made so far: each `randn` takes one step of every thread's counter.
    offset: u32,
}

impl Philox {
    /// A generator as `manual_seed(seed)` leaves it; all 64 bits of the seed count.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// The next `len` values of a standard normal distribution.
    pub fn randn(&mut self, len: usize) -> Vec<f32> {
        let offset = self.offset;
        self.offset = self.offset.wrapping_add(1);
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        (0..len)
            .map(|thread| {
                let words = philox4x32([offset, 0, thread as u32, (thread as u64 >> 32) as u32], key);
                box_muller(words[0], words[1])
            })
            .collect()
    }
}

/// Ten rounds of Philox-4x32.
fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9e37_79b9);
            key[1] = key[1].wrapping_add(0xbb67_ae85);
        }
        let p0 = u64::from(counter[0]) * 0xd251_1f53;
        let p1 = u64::from(counter[2]) * 0xcd9e_8d57;
        counter =
            [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
    }
    counter
}

/// The sine half of Box-Muller with cuRAND's single-precision constants.
fn box_muller(x: u32, y: u32) -> f32 {
    const INV: f32 = 2.328_306_4e-10;
    const INV_2PI: f32 = 2.328_306_4e-10 * 6.283_185_5;
    let u = f64::from(x) * f64::from(INV) + f64::from(INV / 2.0);
    let v = f64::from(y) * f64::from(INV_2PI) + f64::from(INV_2PI / 2.0);
    ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
}
