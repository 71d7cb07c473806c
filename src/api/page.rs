//! Pages of list calls. A page token is opaque: a digest of what is listed, the number of items on all pages, and
//! the key
//! of the last item, so that a token used with another filter is noticed and later pages need not count again.

use std::future::Future;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::firmware::sha256;
use crate::store::{self, Page};

use super::errors::ApiError;
use super::fields::Fields;

/// Items of a page unless the caller says.
const DEFAULT_SIZE: usize = 50;
/// Most items of a page, and most records read from the store at once.
const LARGEST_SIZE: u32 = 1000;
/// Bytes of the digest in a token.
const DIGEST: usize = 8;

/// What page a caller asks for.
#[derive(Debug)]
pub(super) struct PageRequest {
    size: usize,
    digest: [u8; DIGEST],
    /// Key of the last item before, and the number of all items.
    after: Option<(String, u32)>,
}

/// A page of items.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) items: Vec<T>,
    pub(super) next_page_token: String,
    pub(super) total_size: i32,
}

impl PageRequest {
    /// Reads the fields `page_size` and `page_token`; `scope` is all that decides what is listed: method, parent,
    /// filter.
    pub(super) fn read(fields: &mut Fields, page_size: i32, token: &str, scope: &[&str]) -> Self {
        let mut digest = [0; DIGEST];
        digest.copy_from_slice(&sha256(scope.join("\0").as_bytes())[..DIGEST]);
        let size = match usize::try_from(page_size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(1000),
            Err(_) => {
                fields.bad_in_request("page_size", "negative");
                DEFAULT_SIZE
            }
        };
        let after = if token.is_empty() {
            None
        } else {
            let after = read_token(token, digest);
            if after.is_none() {
                fields.bad_in_request("page_token", "not from a page before with the same filter");
            }
            after
        };
        Self {
            size,
            digest,
            after,
        }
    }

    fn token(&self, total: u32, key: &str) -> String {
        let mut bytes = self.digest.to_vec();
        bytes.extend_from_slice(&total.to_be_bytes());
        bytes.extend_from_slice(key.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Walks over what `fetch` reads from the store, in key order, and takes what `keep` keeps.
    pub(super) async fn walk<T, Fetch, Reading>(
        &self,
        key: impl Fn(&T) -> String,
        keep: impl Fn(&T) -> bool,
        fetch: Fetch,
    ) -> Result<Listed<T>, ApiError>
    where
        Fetch: Fn(Page) -> Reading,
        Reading: Future<Output = store::Result<Vec<T>>>,
    {
        let mut cursor = self.after.as_ref().map(|(key, _)| key.clone());
        let known = self.after.as_ref().map(|(_, total)| *total);
        let (mut items, mut count) = (Vec::new(), 0u32);
        'reading: loop {
            let batch = fetch(Page {
                size: LARGEST_SIZE,
                after: cursor.take(),
            })
            .await?;
            let last = batch.len() < usize::try_from(LARGEST_SIZE).unwrap_or(usize::MAX);
            cursor = batch.last().map(&key);
            for item in batch.into_iter().filter(|item| keep(item)) {
                count = count.saturating_add(1);
                // One more than a page: then there is a next one.
                if items.len() <= self.size {
                    items.push(item);
                } else if known.is_some() {
                    break 'reading;
                }
            }
            if last {
                break;
            }
        }
        Ok(self.cut(items, known.unwrap_or(count), key))
    }

    /// The page of a list that is in memory, in key order.
    pub(super) fn of<T>(&self, all: Vec<T>, key: impl Fn(&T) -> String) -> Listed<T> {
        let total = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let items = all.into_iter().filter(|item| match &self.after {
            Some((after, _)) => key(item) > *after,
            None => true,
        });
        let items = items.take(self.size + 1).collect();
        self.cut(items, total, key)
    }

    fn cut<T>(&self, mut items: Vec<T>, total: u32, key: impl Fn(&T) -> String) -> Listed<T> {
        let more = items.len() > self.size;
        items.truncate(self.size);
        let next_page_token = match items.last() {
            Some(last) if more => self.token(total, &key(last)),
            _ => String::new(),
        };
        Listed {
            items,
            next_page_token,
            total_size: i32::try_from(total).unwrap_or(i32::MAX),
        }
    }
}

/// All that `fetch` reads from the store, in key order.
pub(super) async fn everything<T, Fetch, Reading>(
    key: impl Fn(&T) -> String,
    fetch: Fetch,
) -> Result<Vec<T>, ApiError>
where
    Fetch: Fn(Page) -> Reading,
    Reading: Future<Output = store::Result<Vec<T>>>,
{
    let mut all: Vec<T> = Vec::new();
    loop {
        let batch = fetch(Page {
            size: LARGEST_SIZE,
            after: all.last().map(&key),
        })
        .await?;
        let last = batch.len() < usize::try_from(LARGEST_SIZE).unwrap_or(usize::MAX);
        all.extend(batch);
        if last {
            return Ok(all);
        }
    }
}

fn read_token(token: &str, digest: [u8; DIGEST]) -> Option<(String, u32)> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (found, rest) = bytes.split_first_chunk::<DIGEST>()?;
    let (total, key) = rest.split_first_chunk::<4>()?;
    (*found == digest).then_some(())?;
    let key = String::from_utf8(key.to_vec()).ok()?;
    Some((key, u32::from_be_bytes(*total)))
}
