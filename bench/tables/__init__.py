"""Records -> numbers -> what people read. No torch."""
