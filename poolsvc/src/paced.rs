//! A connection whose client must take what it is sent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use pool_api::pace::{Pace, Progress};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream that fails to be written to once whoever reads it does so too slowly. What the kernel
/// takes in its buffers counts as read.
///
/// Reading is as it was: whether anybody waits for what the client sends is known above.
pub(crate) struct Paced<S> {
    stream: S,
    progress: Progress,
    /// Since when there has been no room, and until when there may be none.
    full: Option<(Instant, Option<Pin<Box<Sleep>>>)>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, pace: Pace) -> Self {
        Self {
            stream,
            progress: Progress::new(pace),
            full: None,
        }
    }

    fn note(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            let waited = self.full.take();
            let waited = waited.map_or_else(Default::default, |(since, _)| since.elapsed());
            let bytes = written.as_ref().map_or(0, |bytes| *bytes as u64);
            self.progress.note(waited, bytes);
            return Poll::Ready(written);
        }
        let progress = &self.progress;
        let (_, patience) = self.full.get_or_insert_with(|| {
            let now = Instant::now();
            let patience = progress
                .deadline(now)
                .map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
            (now, patience)
        });
        let ended = patience
            .as_mut()
            .is_some_and(|patience| patience.as_mut().poll(context).is_ready());
        if ended {
            let what = format!("the client takes {}", progress.too_slow());
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.note(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
