"""One file -> one grey tensor: DICOM, PNG, TIFF; scaling, resizing, and what is background."""
