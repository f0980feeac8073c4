// SPDX-License-Identifier: MIT
#pragma once

#include "host/pictures/image_reader.hpp"

#include <nca/image.hpp>

namespace nca {

// Goes past "Exif\0\0", with which EXIF data begin in a JPEG. False where the file has no such text
// here.
bool skip_exif_prefix(ImageReader& file);

// The orientation in EXIF data, 1..8: where the first row and the first column of the stored
// picture belong. The data are a TIFF header and its directories, with or without the prefix.
// Returns 1, which changes nothing, where they are damaged or have no orientation.
int read_orientation(ImageReader exif);

// The picture as it is meant to be seen: turned and mirrored as the orientation says.
Image turned_upright(Image image, int orientation);

}  // namespace nca
