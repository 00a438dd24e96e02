package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strconv"
)

// Serves /sum?n=N on the address in its first argument.
func main() {
	http.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(map[string]int{"sum": n * (n + 1) / 2})
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
