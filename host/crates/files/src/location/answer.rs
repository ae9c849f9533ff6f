//! Cuts what an object store answers with: the person who runs it decides how long that is, and the SDK reads it into memory.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame};

/// The longest response that is read. A page of a listing has 1,000 keys of 1,024 bytes, and a part of an object 4 MiB.
pub(super) const MAX_ANSWER_BYTES: usize = 5 << 20;

/// Cuts every response at [`MAX_ANSWER_BYTES`], and counts those that it cut: the SDK takes XML that ends early for a whole document.
#[derive(Clone, Debug, Default)]
pub(super) struct BoundedAnswers(Arc<AtomicU64>);

impl BoundedAnswers {
    /// How many responses were cut.
    pub(super) fn cut(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for BoundedAnswers {
    fn name(&self) -> &'static str {
        "BoundedAnswers"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        let whole = mem::replace(body, SdkBody::taken());
        let cut = Cut { body: Box::pin(whole), left: MAX_ANSWER_BYTES, count: Arc::clone(&self.0) };
        *body = SdkBody::from_body_1_x(cut);
        Ok(())
    }
}

/// The first bytes of a body.
struct Cut {
    body: Pin<Box<SdkBody>>,
    left: usize,
    count: Arc<AtomicU64>,
}

impl Body for Cut {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            self.count.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(None);
        }
        let frame = ready!(self.body.as_mut().poll_frame(context));
        let left = self.left;
        let cut = frame
            .map(|frame| frame.map(|frame| frame.map_data(|mut data| data.split_to(left.min(data.len())))));
        if let Some(Ok(frame)) = &cut
            && let Some(data) = frame.data_ref()
        {
            self.left -= data.len();
        }
        Poll::Ready(cut)
    }
}
