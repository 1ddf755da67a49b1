// Go's net/http: every message runs in a goroutine of its own.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o server bench/peers/go_http/main.go; ./server PORT
//
// That path is where Debian's golang-github-go-sql-driver-mysql-dev has the driver; the pool is database/sql's own.
// The environment says what a handler does, as bench/peers/asked.py tells. Lines are gathered and written 8 KiB at a
// time, as Python's print does into a file. GET /count tells how many events were completed.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	bufferBytes = 8192
	stopTimeout = 5 * time.Second
)

type delivery struct {
	Messages string `json:"messages"`
}

type server struct {
	scenario          string
	shortest, longest float64
	database          *sql.DB

	events, failed, running int64

	mutex sync.Mutex
	lines *bufio.Writer
}

func asked(name, otherwise string) string {
	if given := os.Getenv(name); given != "" {
		return given
	}
	return otherwise
}

func seconds(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		log.Fatalf("expected BENCH_NAP_S=2-3: %v", err)
	}
	return value
}

func openDatabase() *sql.DB {
	where, err := url.Parse(os.Getenv("BENCH_DB"))
	if err != nil {
		log.Fatal("expected BENCH_DB=mysql://user:password@host:port/database")
	}
	size, err := strconv.Atoi(asked("BENCH_DB_POOL", "50"))
	if err != nil {
		log.Fatalf("expected BENCH_DB_POOL to be a number: %v", err)
	}
	config := mysql.NewConfig()
	config.User = where.User.Username()
	config.Passwd, _ = where.User.Password()
	config.Net, config.Addr = "tcp", where.Host
	config.DBName = strings.TrimPrefix(where.Path, "/")
	connector, err := mysql.NewConnector(config)
	if err != nil {
		log.Fatal(err)
	}
	database := sql.OpenDB(connector)
	database.SetMaxOpenConns(size)
	database.SetMaxIdleConns(size)
	fill(database, size)
	return database
}

// fill opens all connections now; by itself the pool opens one when it is first needed.
func fill(database *sql.DB, size int) {
	held := make([]*sql.Conn, size)
	for i := range held {
		connection, err := database.Conn(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		held[i] = connection
	}
	for _, connection := range held {
		connection.Close()
	}
}

func (s *server) handle(message string) error {
	if s.scenario == "1" {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		_, err := fmt.Fprintf(s.lines, "message = '%s'\n", message)
		return err
	}
	time.Sleep(time.Duration((s.shortest + rand.Float64()*(s.longest-s.shortest)) * float64(time.Second)))
	if s.scenario == "3" {
		var now string
		return s.database.QueryRow("SELECT NOW()").Scan(&now)
	}
	return nil
}

func (s *server) run(message string) {
	if err := s.handle(message); err != nil {
		atomic.AddInt64(&s.failed, 1)
		log.Print(err)
	} else {
		atomic.AddInt64(&s.events, 1)
	}
	atomic.AddInt64(&s.running, -1)
}

func (s *server) callback(w http.ResponseWriter, r *http.Request) {
	var given delivery
	if err := json.NewDecoder(r.Body).Decode(&given); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, message := range strings.Split(given.Messages, ",") {
		atomic.AddInt64(&s.running, 1)
		go s.run(message)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte(`{"ok":"ok"}`))
}

func (s *server) count(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"events":%d,"failed":%d,"running":%d}`,
		atomic.LoadInt64(&s.events), atomic.LoadInt64(&s.failed), atomic.LoadInt64(&s.running))
}

func (s *server) flush() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.lines.Flush()
}

func main() {
	nap := strings.SplitN(asked("BENCH_NAP_S", "2-3"), "-", 2)
	s := &server{
		scenario: asked("BENCH_SCENARIO", "1"),
		shortest: seconds(nap[0]),
		longest:  seconds(nap[len(nap)-1]),
		lines:    bufio.NewWriterSize(os.Stdout, bufferBytes),
	}
	if s.scenario == "3" {
		s.database = openDatabase()
	}
	rand.Seed(time.Now().UnixNano())
	http.HandleFunc("/callback", s.callback)
	http.HandleFunc("/count", s.count)
	listener := &http.Server{Addr: "127.0.0.1:" + os.Args[1]}
	stopped := make(chan struct{})
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		<-signals
		ended, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		listener.Shutdown(ended)
		close(stopped)
	}()
	if err := listener.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-stopped
	s.flush()
}
