"""Statistics, tables, figures, pages and PDFs, made from recorded runs."""
