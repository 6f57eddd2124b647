//! The pure logic of sipnat's data path and the layouts that kernel and user space share.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
