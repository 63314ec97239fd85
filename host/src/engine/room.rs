//! Whether one more model fits beside those on a device.
//!
//! The backend tells what is free and estimates what a model needs. One call runs at a time, so that beside all weights
//! only the largest working memory counts. Where nothing is known everything fits: then the backend itself says
//! `out_of_memory`.

use super::shelf::Entry;
use backend_api::{MemReport, ModelPlan};

/// Parts of ten of the free memory that may be used: estimates are rough, and others use the device too.
const USABLE_TENTHS: u64 = 9;

/// Bytes that a call needs beside the weights.
pub(super) fn working(plan: &ModelPlan) -> u64 {
    plan.peak_bytes.saturating_sub(plan.weight_bytes)
}

/// Whether a model fits. `memory` is the device's own report at this moment.
pub(super) fn fits(plan: &ModelPlan, memory: &MemReport, others: &[Entry]) -> bool {
    let largest = others.iter().map(|e| e.working).max().unwrap_or(0).max(working(plan));
    let needed = plan.weight_bytes.saturating_add(largest);
    if memory.device_total == 0 || plan.peak_bytes == 0 {
        return true;
    }
    let free = if memory.device_free > 0 {
        memory.device_free
    } else {
        // A device that does not tell what is free: all but what we put there.
        memory.device_total.saturating_sub(others.iter().map(|e| e.memory.weights + e.memory.scratch).sum())
    };
    needed <= free / 10 * USABLE_TENTHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::shelf::tests::entry;
    use backend_api::{Task, abi_stable::std_types::RVec};

    fn plan(weights: u64, peak: u64) -> ModelPlan {
        ModelPlan { task: Task::DIFFUSION, weight_bytes: weights, peak_bytes: peak, params: RVec::new() }
    }

    fn other(weights: u64, working: u64) -> Entry {
        Entry { memory: MemReport { weights, ..MemReport::default() }, working, ..entry("other") }
    }

    #[test]
    fn free_memory_counts_with_a_reserve() {
        let memory = |free| MemReport { device_total: 1000, device_free: free, ..MemReport::default() };
        assert!(fits(&plan(400, 450), &memory(500), &[]));
        assert!(!fits(&plan(400, 451), &memory(500), &[]));
        // The working memory of another model counts, but not beside its own.
        assert!(fits(&plan(400, 450), &memory(500), &[other(100, 50)]));
        assert!(!fits(&plan(400, 450), &memory(500), &[other(100, 60)]));
    }

    #[test]
    fn without_a_figure_of_what_is_free_our_own_count_serves() {
        let memory = MemReport { device_total: 1000, ..MemReport::default() };
        assert!(fits(&plan(500, 500), &memory, &[other(400, 0)]));
        assert!(!fits(&plan(550, 550), &memory, &[other(400, 0)]));
    }

    #[test]
    fn what_is_unknown_fits() {
        assert!(fits(&plan(1 << 40, 1 << 41), &MemReport::default(), &[]));
        assert!(fits(&plan(0, 0), &MemReport { device_total: 1, ..MemReport::default() }, &[other(9, 9)]));
    }
}
