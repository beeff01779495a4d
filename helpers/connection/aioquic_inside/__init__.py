"""What relies on aioquic's inside, and on nothing but that."""
