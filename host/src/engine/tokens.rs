//! Tokens that were added to a loaded model for textual inversions. They go with the model.

use super::session::Session;
use crate::{
    embeddings::Embeddings,
    fault::{Fault, FaultCode},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// The most vectors of one encoder; the largest widths take some 64 MiB for so many.
const MAX_VECTORS: u32 = 8_192;

#[derive(Debug, Default)]
struct Book {
    /// Checksum of the vectors → the first id at each encoder.
    known: HashMap<[u8; 32], Vec<u32>>,
    vectors: u32,
}

/// What one loaded model knows.
#[derive(Debug, Default)]
pub(super) struct AddedTokens(Mutex<Book>);

impl AddedTokens {
    /// The first id of an embedding at each encoder. Its vectors are sent to the device the first time.
    pub(super) fn ids(&self, device: &Session, embeddings: &Embeddings, name: &str) -> Result<Vec<u32>, Fault> {
        let all = embeddings.vectors(name)?;
        let count = embeddings.find(name).map_or(0, sd_models::Embedding::vectors);
        // By content, so that a file that was changed on disk is another embedding.
        let mut sum = Sha256::new();
        all.iter().flatten().for_each(|v| sum.update(v.to_le_bytes()));
        let key = sum.finalize().into();
        // Held over the call: another lane with the same prompt waits for these ids.
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ids) = book.known.get(&key) {
            return Ok(ids.clone());
        }
        if book.vectors + count > MAX_VECTORS {
            let message = format!(
                "embeddings of more than {MAX_VECTORS} vectors were used since the model was loaded; unload it and load it again"
            );
            return Err(Fault::new(FaultCode::Conflict, message));
        }
        let add = |(i, vectors): (usize, Vec<f32>)| device.add_tokens(i as u32, vectors, count as usize);
        let ids = all.into_iter().enumerate().map(add).collect::<Result<Vec<_>, _>>()?;
        book.vectors += count;
        book.known.insert(key, ids.clone());
        Ok(ids)
    }
}
