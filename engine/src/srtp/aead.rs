//! AES-GCM by AWS-LC, its key schedule and tables in one piece of memory that is ours.
//!
//! Why not `aws_lc_rs::aead`: it keeps these 584 bytes behind a pointer that it does not show, and in a worker with hundreds of calls each
//! packet waited for them. Here they lie in their transform's box, and a worker asks for them before the packet's turn has come.
#![allow(unsafe_code)]

use aws_lc_sys::{
    EVP_AEAD_CTX, EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open_gather, EVP_AEAD_CTX_seal_scatter,
    EVP_AEAD_CTX_zero, EVP_aead_aes_128_gcm, EVP_aead_aes_256_gcm, OPENSSL_cleanse,
};
use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr;

/// RFC 7714 §13.2: the tag is never truncated.
pub(super) const TAG_BYTES: usize = 16;
/// RFC 7714 §8.1.
pub(super) const NONCE_BYTES: usize = 12;

/// What the C functions answer when all is well.
const DONE: c_int = 1;

/// One key, ready for use.
pub(super) struct AesGcm(EVP_AEAD_CTX);

// SAFETY: the context holds no pointer but the one to the algorithm, a constant, and belongs to no thread.
unsafe impl Send for AesGcm {}
// SAFETY: `seal` and `open` only read the context (`aead.h`: they may be called concurrently with themselves and each other).
unsafe impl Sync for AesGcm {}

impl AesGcm {
    /// # Panics
    /// If `key` has neither 16 nor 32 bytes.
    pub(super) fn new(key: &[u8]) -> AesGcm {
        assert!(matches!(key.len(), 16 | 32), "a key of AES-128 or AES-256");
        let mut context = MaybeUninit::uninit();
        // SAFETY: `EVP_AEAD_CTX_zero` writes the whole context, `EVP_AEAD_CTX_init` reads `key.len()` bytes of the key. That the context
        // is moved afterwards changes nothing: the state of AES-GCM holds no address (`EVP_AEAD_CTX_copy` copies it byte by byte).
        let (context, answer) = unsafe {
            EVP_AEAD_CTX_zero(context.as_mut_ptr());
            let algorithm = if key.len() == 16 { EVP_aead_aes_128_gcm() } else { EVP_aead_aes_256_gcm() };
            let engine = ptr::null_mut();
            let answer = EVP_AEAD_CTX_init(context.as_mut_ptr(), algorithm, key.as_ptr(), key.len(), TAG_BYTES, engine);
            (context.assume_init(), answer)
        };
        assert_eq!(answer, DONE, "a key of the algorithm's length is taken");
        AesGcm(context)
    }

    /// Encrypts `plain` in place; answers the tag.
    ///
    /// # Panics
    /// Past 2^36 bytes.
    pub(super) fn seal(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], plain: &mut [u8]) -> [u8; TAG_BYTES] {
        let (mut tag, mut tag_bytes) = ([0; TAG_BYTES], 0);
        let text = plain.as_mut_ptr();
        // SAFETY: each pointer is followed by its length. Reading and writing the same `text` is allowed where it begins at one address.
        let answer = unsafe {
            EVP_AEAD_CTX_seal_scatter(
                &self.0,
                text,
                tag.as_mut_ptr(),
                &mut tag_bytes,
                TAG_BYTES,
                nonce.as_ptr(),
                NONCE_BYTES,
                text,
                plain.len(),
                ptr::null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        assert!(answer == DONE && tag_bytes == TAG_BYTES, "fails only past 2^36 bytes");
        tag
    }

    /// Checks and decrypts `sealed`, text and tag, in place. Where it answers false, the text is unspecified.
    #[must_use]
    pub(super) fn open(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], sealed: &mut [u8]) -> bool {
        let Some(len) = sealed.len().checked_sub(TAG_BYTES) else { return false };
        let (text, tag) = sealed.split_at_mut(len);
        let start = text.as_mut_ptr();
        // SAFETY: as in `seal`; the tag lies behind the text and is only read.
        let answer = unsafe {
            EVP_AEAD_CTX_open_gather(
                &self.0,
                start,
                nonce.as_ptr(),
                NONCE_BYTES,
                start,
                text.len(),
                tag.as_ptr(),
                TAG_BYTES,
                aad.as_ptr(),
                aad.len(),
            )
        };
        answer == DONE
    }
}

impl Drop for AesGcm {
    fn drop(&mut self) {
        let start = ptr::from_mut(&mut self.0);
        // SAFETY: the context was initialised, and nobody uses it afterwards; all of its bytes may be overwritten then.
        unsafe {
            EVP_AEAD_CTX_cleanup(start);
            OPENSSL_cleanse(start.cast(), size_of::<EVP_AEAD_CTX>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_again_though_the_key_has_moved() {
        for key in [&[7; 16][..], &[7; 32]] {
            let (first, nonce) = (AesGcm::new(key), [3; NONCE_BYTES]);
            let mut text = *b"twenty milliseconds";
            let tag = first.seal(&nonce, b"header", &mut text);
            let moved = Box::new(first);
            let mut sealed = [&text[..], &tag].concat();
            assert!(moved.open(&nonce, b"header", &mut sealed));
            assert_eq!(&sealed[..text.len()], b"twenty milliseconds");
        }
    }

    #[test]
    fn nothing_forged_or_cut_off_opens() {
        let (key, nonce) = (AesGcm::new(&[1; 16]), [0; NONCE_BYTES]);
        let mut text = [5; 20];
        let tag = key.seal(&nonce, b"header", &mut text);
        let sealed = [&text[..], &tag].concat();
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert!(!key.open(&nonce, b"header", &mut forged));
        }
        for len in 0..sealed.len() {
            assert!(!key.open(&nonce, b"header", &mut sealed[..len].to_vec()));
        }
        assert!(!key.open(&nonce, b"Header", &mut sealed.clone()));
        assert!(!key.open(&[1; NONCE_BYTES], b"header", &mut sealed.clone()));
        assert!(!AesGcm::new(&[2; 16]).open(&nonce, b"header", &mut sealed.clone()));
    }

    #[test]
    fn an_empty_text_has_a_tag_too() {
        let (key, nonce) = (AesGcm::new(&[1; 32]), [9; NONCE_BYTES]);
        let mut tag = key.seal(&nonce, b"", &mut []).to_vec();
        assert!(key.open(&nonce, b"", &mut tag.clone()));
        tag[15] ^= 0x80;
        assert!(!key.open(&nonce, b"", &mut tag));
    }
}
