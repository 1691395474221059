//! Floor of queue.
