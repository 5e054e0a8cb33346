"""Hash, encode, sign, seal, prove. Pure: entropy and time come in as arguments."""
