//! How a one-time code reaches its phone.

/// The ways of `OTP_DELIVERY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OtpDelivery {
    /// In the answer itself: for trying out, embedded.
    #[default]
    Response,
    /// As a log line of the target `otp`.
    Log,
    /// Posted to this address.
    Webhook(String),
}
