//! The storage of large files behind the Hub: chunks in blocks, and which of them make up a file.
//!
//! What is kept, checked and put together is done by the storage client's own store in memory; here is only its protocol.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};
use xet_client::cas_client::{Client, DeletionControlableClient, DirectAccessClient, MemoryClient};
use xet_client::cas_types::{Key, UploadShardResponse, UploadShardResponseType, UploadXorbResponse};
use xet_core_structures::xorb_object::SerializedXorbObject;
use xet_runtime::core::XetContext;

use super::Answer;

/// Blocks and files.
pub(super) struct Storage {
    runtime: Runtime,
    memory: Arc<MemoryClient>,
}

impl Storage {
    pub fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let memory = runtime.block_on(async { MemoryClient::new(XetContext::default().unwrap()) });
        Self { runtime, memory }
    }

    /// What is answered to `method` `path` under the storage's address.
    pub fn answer(&self, path: &str, body: &[u8]) -> Answer {
        let done = if let Some(key) = path.strip_prefix("/v1/xorbs/") {
            self.runtime.block_on(self.block(&key.parse().unwrap(), body))
        } else if path == "/v1/shards" {
            self.runtime.block_on(self.files_of_blocks(body))
        } else if let Some(key) = path.strip_prefix("/v1/chunks/") {
            self.runtime.block_on(self.known(&key.parse().unwrap()))
        } else {
            return Answer::new(404, Vec::new()); // newer ways, which clients do without
        };
        done.unwrap_or_else(|cause| Answer::new(400, cause.to_string().into_bytes()))
    }

    async fn block(&self, key: &Key, body: &[u8]) -> Result<Answer, xet_client::ClientError> {
        let serialized = SerializedXorbObject {
            hash: key.hash,
            serialized_data: body.to_vec(),
            raw_num_bytes: body.len() as u64,
            num_chunks: 0,
            footer_start: None,
        };
        let permit = self.memory.acquire_upload_permit().await?;
        self.memory.upload_xorb(&key.prefix, serialized, None, permit).await?;
        Ok(Answer::json(&serde_json::to_value(UploadXorbResponse { was_inserted: true }).unwrap()))
    }

    async fn files_of_blocks(&self, body: &[u8]) -> Result<Answer, xet_client::ClientError> {
        let permit = self.memory.acquire_upload_permit().await?;
        let hash = self.memory.upload_shard(body.to_vec().into(), permit, None).await?;
        let answer =
            UploadShardResponse { result: UploadShardResponseType::SyncPerformed, shard_hash: hash.map(Into::into) };
        Ok(Answer::json(&serde_json::to_value(answer).unwrap()))
    }

    async fn known(&self, key: &Key) -> Result<Answer, xet_client::ClientError> {
        let found = self.memory.query_for_global_dedup_shard(&key.prefix, &key.hash).await?;
        Ok(found.map_or_else(|| Answer::new(404, Vec::new()), |bytes| Answer::new(200, bytes.to_vec())))
    }

    /// Every whole file, put together from its blocks, by its SHA-256.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.runtime.block_on(async {
            let mut files = BTreeMap::new();
            for (file, _) in self.memory.list_file_shard_entries().await.unwrap() {
                let bytes = self.memory.get_file_data(&file, None).await.unwrap().to_vec();
                let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                files.insert(digest, bytes);
            }
            files
        })
    }
}
