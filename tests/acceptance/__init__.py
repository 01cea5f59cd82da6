"""Real workers, real servers, a real Valkey: what the contract says, seen from the outside."""
