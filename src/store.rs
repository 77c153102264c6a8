//! All resources and their statuses at one moment: one writer, many readers, no waiting.
