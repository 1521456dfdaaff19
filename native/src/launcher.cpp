#include "understudy/launcher.h"

namespace understudy {

Launcher::Launcher(Model& model) : model_(model), thread_([this] { run(); }) {}

Launcher::~Launcher() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    launched_.notify_one();
    thread_.join();
}

void Launcher::launch(Pass& pass) {
    {
        std::lock_guard lock(mutex_);
        passes_.push_back(&pass);
    }
    launched_.notify_one();
}

void Launcher::wait(Pass& pass) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return pass.is_done; });
}

void Launcher::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        launched_.wait(lock, [this] { return stopping_ || !passes_.empty(); });
        if (passes_.empty()) return;
        Pass& pass = *passes_.front();
        passes_.pop_front();
        lock.unlock();
        std::exception_ptr error;
        try {
            model_.forward(*pass.pool, pass.stretches, pass.x, pass.out);
        } catch (...) {
            error = std::current_exception();
        }
        lock.lock();
        pass.error = error;
        pass.is_done = true;
        done_.notify_all();  // under the lock: whoever waited may destroy the pass at once
    }
}

}  // namespace understudy
