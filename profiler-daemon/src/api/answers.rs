//! Answers that their clients have not read yet: bounded in bytes and in time, whatever clients do.
//!
//! In: the response to a call, before anything of it is sent. Out: the same response in pieces that take their place only
//! when the client takes them, or a refusal. HTTP/2 lets a client ask for thousands of answers and read none; each would
//! stay in memory for as long as its connection.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body::Frame;
use tokio::task::JoinHandle;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Body as _, Bytes,
        http::{HeaderMap, Response, StatusCode, header::CONTENT_TYPE},
    },
};

use super::status::ApiError;

/// Bytes of unread answers from which on no more are held. The last one may exceed it: its size is known when it is there.
const MAX_UNREAD_BYTES: usize = 32 << 20;
/// Time in which an answer must be read.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(60);
/// Bytes handed to a connection at a time: what the connection itself keeps of an unread answer.
const PIECE_BYTES: usize = 16 << 10;

/// Counts what is unread.
#[derive(Debug, Default)]
pub(super) struct Unread(AtomicUsize);

/// A part of the count, taken back when this is dropped.
#[derive(Debug)]
struct Share {
    bytes: usize,
    unread: Arc<Unread>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.unread.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Unread {
    /// Holds a response until its client reads it, at most for so long. A stream that is not there yet passes: it is made
    /// message by message, as its client reads.
    pub(super) async fn hold(self: Arc<Self>, response: Response<Body>, within: Duration) -> Response<Body> {
        let (parts, mut body) = response.into_parts();
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        let first = match first {
            Poll::Pending | Poll::Ready(None) => return Response::from_parts(parts, body),
            Poll::Ready(Some(Err(status))) => return status.into_http(),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        let (data, other) = match first.into_data() {
            Ok(data) => (data, None),
            Err(other) => (Bytes::new(), Some(other)),
        };
        let Some(share) = self.share(data.len()) else {
            return refusal(&parts.headers);
        };
        let answer = Answer {
            data,
            other,
            rest: body,
            _share: share,
        };
        Response::from_parts(parts, Body::new(HeldAnswer::new(answer, within)))
    }

    fn share(self: Arc<Self>, bytes: usize) -> Option<Share> {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let share = Share { bytes, unread: self };
        // An answer without a body costs nothing.
        (bytes == 0 || before < MAX_UNREAD_BYTES).then_some(share)
    }
}

/// Whether headers are those of gRPC, where a status is not that of HTTP.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// In place of an answer for which there is no room.
fn refusal(answer: &HeaderMap) -> Response<Body> {
    if is_grpc(answer) {
        let limit = MAX_UNREAD_BYTES;
        return Status::from(ApiError::Unread { limit }).into_http();
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// What is left of an answer.
#[derive(Debug)]
struct Answer {
    data: Bytes,
    other: Option<Frame<Bytes>>,
    rest: Body,
    _share: Share,
}

/// The body of a response; nothing once it was not read in time.
#[derive(Debug)]
struct HeldAnswer {
    answer: Arc<Mutex<Option<Answer>>>,
    timer: JoinHandle<()>,
}

impl HeldAnswer {
    fn new(answer: Answer, within: Duration) -> Self {
        let answer = Arc::new(Mutex::new(Some(answer)));
        let overdue = Arc::downgrade(&answer);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(within).await;
            if let Some(answer) = overdue.upgrade() {
                let unread = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(unread);
            }
        });
        Self { answer, timer }
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl http_body::Body for HeldAnswer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = answer.as_mut() else {
            let late = ApiError::Slow {
                what: "reading the answer",
                limit: READ_WITHIN,
            };
            return Poll::Ready(Some(Err(late.into())));
        };
        if !answer.data.is_empty() {
            let length = answer.data.len().min(PIECE_BYTES);
            return Poll::Ready(Some(Ok(Frame::data(answer.data.split_to(length)))));
        }
        match answer.other.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut answer.rest).poll_frame(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    /// A body of one frame of so many bytes, as a call with one answer has it.
    #[derive(Debug)]
    struct Once(Option<Bytes>);

    impl http_body::Body for Once {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
        }
    }

    fn answer(bytes: usize) -> Response<Body> {
        Response::new(Body::new(Once(Some(vec![7; bytes].into()))))
    }

    async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    #[tokio::test]
    async fn what_is_read_leaves_room_for_more() {
        let unread = Arc::new(Unread::default());
        let first = Arc::clone(&unread).hold(answer(MAX_UNREAD_BYTES), READ_WITHIN).await;
        let mut of_grpc = answer(1);
        let content_type = "application/grpc".parse().unwrap();
        of_grpc.headers_mut().insert(CONTENT_TYPE, content_type);
        let refused = Arc::clone(&unread).hold(of_grpc, READ_WITHIN).await;
        let status = Status::from_header_map(refused.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let refused = Arc::clone(&unread).hold(answer(1), READ_WITHIN).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let (mut body, mut read) = (first.into_body(), 0);
        while let Some(frame) = next(&mut body).await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES && piece.iter().all(|byte| *byte == 7));
            read += piece.len();
        }
        assert_eq!(read, MAX_UNREAD_BYTES);
        drop(body);
        assert_eq!(unread.0.load(Ordering::Relaxed), 0);
        let next = Arc::clone(&unread).hold(answer(1), READ_WITHIN).await;
        assert!(Status::from_header_map(next.headers()).is_none());
    }

    #[tokio::test]
    async fn what_is_not_read_in_time_is_dropped() {
        let unread = Arc::new(Unread::default());
        let within = Duration::from_millis(20);
        let held = Arc::clone(&unread).hold(answer(1000), within).await;
        assert_eq!(unread.0.load(Ordering::Relaxed), 1000);
        tokio::time::sleep(within).await;
        while unread.0.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let status = next(&mut held.into_body()).await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn answers_without_a_body_and_with_an_error_pass() {
        let unread = Arc::new(Unread::default());
        let filled = Arc::clone(&unread).hold(answer(MAX_UNREAD_BYTES), READ_WITHIN).await;
        let empty = Arc::clone(&unread)
            .hold(Status::not_found("nothing").into_http(), READ_WITHIN)
            .await;
        assert_eq!(
            Status::from_header_map(empty.headers()).unwrap().code(),
            tonic::Code::NotFound
        );
        drop(filled);
        assert_eq!(unread.0.load(Ordering::Relaxed), 0);
    }
}
