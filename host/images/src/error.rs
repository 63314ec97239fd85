//! What can be wrong with a picture.

/// An error about a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// More bytes than the limit.
    #[error("the image has {bytes} bytes; at most {limit} are allowed")]
    TooManyBytes {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too wide, too high, too many pixels, or none at all.
    #[error(
        "the image is {width} × {height}; both sides must be 1 to {max_side} and there may be at most {max_pixels} pixels"
    )]
    Dimensions {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The longest side.
        max_side: u32,
        /// The most pixels.
        max_pixels: u64,
    },
    /// Not one of the formats that are read.
    #[error("{found}; send a PNG, JPEG or WebP image")]
    Format {
        /// What the bytes look like.
        found: &'static str,
    },
    /// The file ends too early.
    #[error("the {format} image is cut off; send the whole file")]
    Truncated {
        /// The format.
        format: &'static str,
    },
    /// The file contradicts its format.
    #[error("the {format} image is damaged: {reason}")]
    Corrupt {
        /// The format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Something else hides behind the picture.
    #[error("{bytes} bytes follow the end of the {format} image; save it again without them")]
    Trailing {
        /// The format.
        format: &'static str,
        /// How many bytes.
        bytes: usize,
    },
    /// More than one frame.
    #[error("the {format} image is animated; send a still image")]
    Animated {
        /// The format.
        format: &'static str,
    },
    /// Texts or profiles that are far larger than they look.
    #[error("texts and profile of the {format} image unpack to more than {limit} bytes; save it again without them")]
    Unpacks {
        /// The format.
        format: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A variant of the format that is not read.
    #[error("the {format} image {what}; convert it to 8-bit RGB")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// Which variant.
        what: &'static str,
    },
    /// Not base64.
    #[error("the image is not valid base64: {reason}")]
    Base64 {
        /// The decoder's words.
        reason: String,
    },
    /// A data URL of another kind.
    #[error("the data URL must look like data:image/png;base64,…")]
    DataUrl,
    /// A link. Links are never followed.
    #[error("{scheme} links are not fetched; send the image itself as base64 or as a data URL")]
    Link {
        /// The scheme.
        scheme: &'static str,
    },
    /// A mask that says nothing.
    #[error("the mask has no alpha channel; its transparent pixels are the ones to repaint")]
    MaskWithoutAlpha,
    /// Two pictures that must have the same size.
    #[error("sizes differ: {what} is {left:?}, not {right:?}")]
    SizeMismatch {
        /// Which one.
        what: &'static str,
        /// Its width and height.
        left: (u32, u32),
        /// The width and height it should have.
        right: (u32, u32),
    },
    /// A buffer whose length does not match its dimensions: a defect in the caller.
    #[error("{what} holds {found} values, {expected} are expected")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The right length.
        expected: usize,
    },
    /// The encoder failed.
    #[error("the {format} image could not be written: {reason}")]
    Encode {
        /// The format.
        format: &'static str,
        /// The encoder's words.
        reason: String,
    },
}

impl ImageError {
    /// The stable machine-readable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooManyBytes { .. } => "image_too_large",
            Self::Dimensions { .. } => "image_dimensions",
            Self::Format { .. } => "image_format",
            Self::Truncated { .. } => "image_truncated",
            Self::Corrupt { .. } => "image_corrupt",
            Self::Trailing { .. } => "image_trailing_data",
            Self::Animated { .. } => "image_animated",
            Self::Unpacks { .. } => "image_unpacks",
            Self::Unsupported { .. } => "image_unsupported",
            Self::Base64 { .. } => "image_base64",
            Self::DataUrl => "image_data_url",
            Self::Link { .. } => "image_link",
            Self::MaskWithoutAlpha => "mask_without_alpha",
            Self::SizeMismatch { .. } => "image_size_mismatch",
            Self::Length { .. } => "image_buffer_length",
            Self::Encode { .. } => "image_encode",
        }
    }

    /// Whether the caller's picture is at fault, rather than this program.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Length { .. } | Self::Encode { .. })
    }
}
