//! How many replicas a service should have: Knative's and Kubernetes' formulas. Pure; time comes in as an argument.

mod hpa;
mod kpa;
mod windows;

pub(super) use hpa::{Hpa, SYNC as HPA_SYNC};
pub(super) use kpa::{Averages, Kpa, Rules};
pub(super) use windows::Windows;
