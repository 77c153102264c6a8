//! Requests of an HTTP/2 connection: the first in flight is answered by the connection's own task, those beside it by
//! tasks of their own.
//!
//! hyper gives every HTTP/2 request to an executor, which usually makes a task of it: an allocation, two turns of the
//! scheduler and often another thread's wake-up, for a request that may be over in microseconds. A client with one
//! request in flight a connection needs none of that. A client with many gets a task for each but one, so that they use
//! all cores.

use hyper::rt::Executor;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where one connection's hyper leaves the requests that begin.
#[derive(Clone, Default)]
pub(super) struct Arrivals(Arc<Mutex<Vec<Stream>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Arrivals {
    fn execute(&self, stream: F) {
        self.lock().push(Box::pin(stream));
    }
}

impl Arrivals {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection together with the request that its task answers.
pub(super) struct WithStreams<C> {
    connection: Pin<Box<C>>,
    arrivals: Arrivals,
    /// Changes places with what arrived, so that neither is allocated for each request.
    begun: Vec<Stream>,
    /// The request that this task answers. It is dropped with the connection: nobody could read its answer.
    own: Option<Stream>,
}

impl<C: Future> WithStreams<C> {
    /// `arrivals` is the executor that the connection was built with.
    pub(super) fn new(connection: C, arrivals: Arrivals) -> Self {
        Self { connection: Box::pin(connection), arrivals, begun: Vec::new(), own: None }
    }

    /// The connection alone, to tell it something.
    pub(super) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }

    /// Takes in what began: one for this task if it has none, a task for each of the others.
    fn take_in(&mut self) {
        mem::swap(&mut self.begun, &mut *self.arrivals.lock());
        for stream in self.begun.drain(..) {
            if self.own.is_none() {
                self.own = Some(stream);
            } else {
                tokio::spawn(stream);
            }
        }
    }
}

impl<C: Future> Future for WithStreams<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        loop {
            let ended = self.connection.as_mut().poll(context);
            self.take_in();
            if ended.is_ready() {
                return ended;
            }
            match self.own.as_mut().map(|own| own.as_mut().poll(context)) {
                // Its answer is to be sent: the connection has a turn again.
                Some(Poll::Ready(())) => self.own = None,
                Some(Poll::Pending) | None => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::sync::oneshot;

    /// A connection that begins these requests and goes on until the end of the test.
    fn beginning(streams: Vec<Stream>) -> (Arrivals, impl Future<Output = ()>) {
        let arrivals = Arrivals::default();
        let executor = arrivals.clone();
        let connection = async move {
            for stream in streams {
                executor.execute(stream);
            }
            std::future::pending::<()>().await;
        };
        (arrivals, connection)
    }

    fn telling(ready: Option<oneshot::Receiver<()>>) -> (Stream, oneshot::Receiver<tokio::task::Id>) {
        let (tell, told) = oneshot::channel();
        let stream = async move {
            if let Some(ready) = ready {
                ready.await.unwrap();
            }
            tell.send(tokio::task::id()).unwrap();
        };
        (Box::pin(stream), told)
    }

    #[tokio::test]
    async fn one_request_is_answered_by_the_connections_task_and_those_beside_it_by_their_own() {
        let (go, ready) = oneshot::channel();
        let (waiting, first) = telling(Some(ready));
        let (other, second) = telling(None);
        let (arrivals, connection) = beginning(vec![waiting, other]);
        let task = tokio::spawn(WithStreams::new(connection, arrivals.clone()));
        assert_ne!(second.await.unwrap(), task.id());
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), task.id());
        task.abort();
    }

    #[tokio::test]
    async fn a_request_that_is_over_makes_room_for_the_next() {
        let (first, told_first) = telling(None);
        let (arrivals, connection) = beginning(vec![first]);
        let begins = arrivals.clone();
        let task = tokio::spawn(async move {
            let mut both = Box::pin(WithStreams::new(connection, arrivals));
            assert!((&mut both).now_or_never().is_none());
            let (second, told) = telling(None);
            begins.execute(second);
            assert!((&mut both).now_or_never().is_none());
            told.await.unwrap()
        });
        let id = task.id();
        assert_eq!((told_first.await.unwrap(), task.await.unwrap()), (id, id));
    }

    #[tokio::test]
    async fn a_connection_that_ends_takes_its_request_with_it() {
        let (_go, ready) = oneshot::channel();
        let (waiting, told) = telling(Some(ready));
        let arrivals = Arrivals::default();
        arrivals.execute(waiting);
        WithStreams::new(async {}, arrivals).await;
        assert!(told.await.is_err());
    }
}
